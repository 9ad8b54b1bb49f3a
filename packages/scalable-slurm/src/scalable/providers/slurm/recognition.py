"""Recognizes jobs as Scalable's own, by their comment or, where a site's plugin has rewritten that, by their script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from scalable.providers.slurm.labels import parse_comment

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.output import SlurmJob

__all__ = ["Recognizer"]

_SCRIPTS_AT_ONCE = 20
"""Arrays whose scripts are looked at in one turn, each of which is a request to the controller."""


class Recognizer:
    """Tells to which run, group and launch jobs belong.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    """

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm
        self._by_array: dict[str, Mapping[str, str]] = {}

    async def look_at(self, jobs: Iterable[SlurmJob], *, most: int = _SCRIPTS_AT_ONCE) -> None:
        """Look at the scripts of those among some jobs whose comments are not ours: of each array once."""
        arrays = {
            job.array
            for job in jobs
            if job.is_element and job.array not in self._by_array and not parse_comment(job.comment)
        }
        # The newest first: they may be of the last launch.
        for array in sorted(arrays, key=int, reverse=True)[:most]:
            label = await self._slurm.find_label(array)
            if label is not None:
                self._by_array[array] = label

    def remember(self, array: str, label: Mapping[str, str]) -> None:
        """Take note whose array this is."""
        self._by_array[array] = label

    def label_of(self, job: SlurmJob) -> Mapping[str, str]:
        """Return the fields of a job's comment or script, as far as it was looked at; empty for a foreign job."""
        return parse_comment(job.comment) or self._by_array.get(job.array, {})
