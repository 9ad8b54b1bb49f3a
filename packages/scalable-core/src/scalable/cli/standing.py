"""Which of the resources that providers show belong to runs that live, by the ledgers of the runs from here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.cli.output import print_problem

if TYPE_CHECKING:
    from scalable.cli.asking import Answers, Scope
    from scalable.cluster.ledger import RunLedger
    from scalable.providers.base import Owned
    from scalable.runs import RunState

__all__ = ["LostRun", "OpenRun", "Standing", "Standings", "confirm"]

CONFIRM_AFTER = 3.0
"""Seconds between the two answers that must show an orphan: a native system may still show what has just ended."""


class Standing(StrEnum):
    """What is known of the run that a resource belongs to."""

    ALIVE = "alive"
    """Its process lives."""
    ORPHAN = "orphan"
    """Its process has ended."""
    ELSEWHERE = "elsewhere"
    """Its process is on another machine, and is not known to have ended."""
    FOREIGN = "foreign"
    """No run that was started from here has made it."""


@dataclass(frozen=True)
class _Run:
    directory: Path
    provider: str
    target: str
    state: RunState
    everything_removed: bool
    ledger: RunLedger
    manifest: Path | None
    process: str

    @property
    def names(self) -> frozenset[str]:
        """What it is called: by its record, and by native things of its."""
        return self.ledger.run_ids | {self.directory.name}

    @property
    def standing(self) -> Standing:
        if self.state.lives and self.state.host:
            return Standing.ELSEWHERE
        if self.state.status != "running" or self.ledger.lives is False:
            return Standing.ORPHAN
        return Standing.ALIVE if self.ledger.lives else Standing.ELSEWHERE


@dataclass(frozen=True)
class OpenRun:
    """A run that lives, and of which its provider shows nothing: its workers are processes, or there are none now."""

    run: _Run

    @property
    def standing(self) -> Standing:
        """Whether it lives on this machine."""
        return self.run.standing

    @property
    def names(self) -> frozenset[str]:
        """What it is called."""
        return self.run.names

    def describe(self) -> str:
        """Return that it lives, or that this is not known, and what to do, behind its name."""
        if self.run.state.lives is not None:
            return "lives; end it with `scalable down`, or where it runs"
        return (
            f"is not known to have ended ({self.run.process}), and nothing of it is shown; "
            f"end it where it runs, or if that machine is gone, delete {self.run.directory}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, in the form of a resource."""
        from scalable.providers.base import current_owner

        number = len(self.run.ledger.units)
        workers = "1 worker" if number == 1 else f"{number} workers"
        return {
            "provider": self.run.provider,
            "target": self.run.target,
            "kind": "run",
            "name": self.run.directory.name,
            "run_id": ", ".join(sorted(self.run.ledger.run_ids)),
            "owner": current_owner(),
            "detail": f"{workers}, {self.run.process}",
            "place": "",
            "standing": self.standing.value,
        }


@dataclass(frozen=True)
class LostRun:
    """A run that has ended without noting that nothing is left, and of which its provider shows nothing."""

    run: _Run

    @property
    def name(self) -> str:
        """The run's id."""
        return self.run.directory.name

    def describe(self) -> str:
        """Return what is known of it, in one line."""
        made = len(self.run.ledger.units)
        what = f"{made} workers" if made else f"{self.run.ledger.launched} launches"
        return (
            f"run {self.name} has ended, and {self.run.provider} shows nothing of it any more "
            f"(the ledger has {what} that are not known to have ended)"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, in the form of a resource."""
        return {
            "provider": self.run.provider,
            "target": self.run.target,
            "kind": "run",
            "name": self.name,
            "run_id": ", ".join(sorted(self.run.ledger.run_ids)),
            "owner": "",
            "detail": self.describe(),
            "place": "",
            "standing": "lost",
        }


@dataclass
class Standings:
    """The runs that were started from here, by their ledgers."""

    runs: list[_Run] = field(default_factory=list)

    @classmethod
    def read(cls, only: frozenset[str] | None = None) -> Standings:
        """Return them; those that cannot be read are left out, which `ask` reports.

        Parameters
        ----------
        only : frozenset of str, optional
            The ids of the runs to return.
        """
        from scalable.cluster.ledger import read_ledger
        from scalable.runs import find_records, read_record, run_state

        found = cls()
        try:
            directories = find_records()
        except OSError:
            return found
        for directory in directories:
            try:
                record, ledger = read_record(directory), read_ledger(directory)
                if record is None or ledger is None or not (only is None or ledger.run_ids & only):
                    continue
                state = run_state(record, directory)
            except (OSError, ValueError, RecursionError):
                continue
            found.runs.append(
                _Run(
                    directory,
                    str(record.get("provider")),
                    str(record.get("target")),
                    state,
                    record.get("everything_removed") is True,
                    ledger,
                    _manifest_of(record),
                    _process_of(record, state),
                )
            )
        return found

    def of(self, resource: Owned) -> Standing:
        """Return the standing of a resource."""
        for run in self.runs:
            if resource.run_id in run.ledger.run_ids:
                return run.standing
        return Standing.FOREIGN

    def is_orphan(self, resource: Owned) -> bool:
        """Return whether a resource is this user's orphan."""
        from scalable.providers.base import current_owner

        return resource.owner in (current_owner(), "") and self.of(resource) is Standing.ORPHAN

    def orphans(self, answers: Answers) -> list[Owned]:
        """Return the orphans among what providers show."""
        return [each for a in answers.found for each in a.owned if self.is_orphan(each)]

    def unshown(self, answers: Answers, scope: Scope) -> list[OpenRun]:
        """Return the runs that live on targets in `scope`, and of which no provider shows anything."""
        shown = {each.run_id for answer in answers.found for each in answer.owned}
        manifest = None if scope.manifest is None else Path(scope.manifest).resolve()
        return [
            OpenRun(run)
            for run in self.runs
            if run.standing in (Standing.ALIVE, Standing.ELSEWHERE)
            and not run.everything_removed
            and not run.ledger.run_ids & shown
            and scope.includes(run.provider)
            and scope.target in (None, run.target)
            and manifest in (None, run.manifest)
        ]

    def elsewhere(self, answers: Answers) -> Iterator[str]:
        """Yield a line for each run of another machine of which providers show something."""
        shown = {each.run_id for answer in answers.found for each in answer.owned}
        for run in self.runs:
            if run.standing is Standing.ELSEWHERE and (ids := run.ledger.run_ids & shown):
                yield f"{', '.join(sorted(ids))}: {run.process}"

    def lost(self, answers: Answers, scope: Scope) -> list[LostRun]:
        """Return the runs that were killed, and of which nothing is shown although their targets have answered."""
        if not answers.complete or any((scope.manifest, scope.target, scope.overlay)):
            return []  # not everybody was asked
        shown = {each.run_id for answer in answers.found for each in answer.owned}
        asked = {answer.spec.provider_name for answer in answers.found}
        return [
            LostRun(run)
            for run in self.runs
            if not run.everything_removed
            and run.standing is Standing.ORPHAN
            and run.provider in asked
            and not run.ledger.run_ids & shown
        ]

    def close(
        self,
        left: Sequence[Mapping[str, Any]],
        removed: Sequence[Mapping[str, Any]],
        lost: Iterable[LostRun],
    ) -> None:
        """Record of the runs of which nothing is left that this is so."""
        from scalable.runs import mark_removed

        remaining = {(each["kind"], each["name"]) for each in left}
        cleared = {
            each["run_id"] for each in removed if (each["kind"], each["name"]) not in remaining
        }
        runs = [each.run for each in lost]
        if not left:
            runs += [run for run in self.runs if run.ledger.run_ids & cleared]
        for run in runs:
            try:
                mark_removed(run.directory)
            except (OSError, ValueError) as error:
                print_problem(f"{run.directory / 'record.json'}: {error}", severity="warning")


def _manifest_of(record: Mapping[str, Any]) -> Path | None:
    path = (record.get("manifest") or {}).get("path")
    return Path(str(record.get("directory")), path).resolve() if path else None


def _process_of(record: Mapping[str, Any], state: RunState) -> str:
    process = record.get("process") or {}
    heard = f", {state.heard}" if state.heard else ""
    return f"process {process.get('pid')} on {process.get('host')}{heard}"


def confirm(
    answers: Answers, lost: Sequence[LostRun], scope: Scope, only: frozenset[str] | None = None
) -> tuple[Answers, list[LostRun]]:
    """Return what two answers, some seconds apart, have both shown, and the runs that both have not.

    Parameters
    ----------
    answers : Answers
        The first answers.
    lost : sequence of LostRun
        The runs of which they have shown nothing.
    scope : Scope
        Whom to ask.
    only : frozenset of str, optional
        The ids of the runs that are meant.
    """
    from scalable.cli.asking import ask

    time.sleep(CONFIRM_AFTER)
    again = ask(scope)
    before = {
        (a.spec.provider_name, e.place, e.kind, e.name) for a in answers.found for e in a.owned
    }
    found = [
        replace(
            answer,
            owned=[
                each
                for each in answer.owned
                if (answer.spec.provider_name, each.place, each.kind, each.name) in before
            ],
        )
        for answer in again.found
    ]
    still = {each.run.directory for each in Standings.read(only).lost(again, scope)}
    return replace(again, found=found), [each for each in lost if each.run.directory in still]
