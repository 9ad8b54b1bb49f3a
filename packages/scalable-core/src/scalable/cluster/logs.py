"""Keeps the logs of workers for a run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.limits import contained
from scalable.cluster.log_directory import (
    MAX_KEPT,
    current_log_directory,
    open_log_directory,
)
from scalable.cluster.port import Explanation, ReadsLogs, Unit
from scalable.errors import describe_error

if TYPE_CHECKING:
    from scalable.cluster.events import EventLog
    from scalable.cluster.port import Backend

__all__ = ["LogKeeper", "end_of"]

MAX_TOTAL = 1_000_000_000
"""Bytes of logs after which little is kept of each further one."""

MAX_LATER = 10_000

_AT_A_TIME = 16

_TIMEOUT = 15.0
"""Seconds that the logs of workers may take which are about to be stopped."""


def end_of(text: str, size: int) -> str:
    r"""Return the end of a text, from the beginning of a line on, and how much was left out.

    Examples
    --------
    >>> end_of("one\ntwo\n", 100)
    'one\ntwo\n'
    >>> end_of("one\ntwo\nthree\n", 8)
    '[the first 8 bytes are not kept]\nthree\n'
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= size:
        return text
    end = encoded[-size:]
    # A line that is cut may begin within a secret, which nothing would recognise.
    cut = end.find(b"\n") + 1
    end = end[cut:] if cut and len(encoded) > size else end
    left_out = len(encoded) - len(end)
    return f"[the first {left_out} bytes are not kept]\n{end.decode(errors='replace')}"


class LogKeeper:
    """Keeps the logs of a cluster's workers in the directory of the enclosing `keep_logs_in`; without one, nothing.

    A backend that `ReadsLogs` is asked for the whole log, any other for the end of it. A log that is there already,
    because the worker itself writes it, stays as it is.

    Parameters
    ----------
    backend : Backend
        Knows the logs.
    events : EventLog
        Where it is recorded that logs cannot be kept.
    """

    def __init__(self, backend: Backend, events: EventLog) -> None:
        self._backend, self._events = backend, events
        self._kept = current_log_directory()
        self._mine: set[str] = set()
        self._total = 0
        self._turn = asyncio.Semaphore(_AT_A_TIME)
        self._later: set[asyncio.Task[None]] = set()

    @property
    def after_stop(self) -> bool:
        """Whether logs can be read once their workers have ended."""
        return isinstance(self._backend, ReadsLogs) and self._backend.logs_outlive_units

    def path(self, unit: Unit) -> Path | None:
        """Return where a unit's log is kept; None if none are kept."""
        return None if self._kept is None else self._kept.directory / f"{unit.id}.log"

    def name(self, unit: Unit, why: Explanation) -> Explanation:
        """Return an explanation that names the file of the log that it shows the end of."""
        path = self.path(unit)
        if path is None or not why.log_tail or "its log is" in why.remedy:
            return why
        remedy = "; ".join(filter(None, (why.remedy, f"its log is {path}")))
        return replace(why, remedy=remedy)

    def without_secrets(self, why: Explanation) -> Explanation:
        """Return an explanation whose log has no secrets, as far as it is known what these are."""
        if self._kept is None or not why.log_tail:
            return why
        return replace(why, log_tail=self._kept.redact(why.log_tail))

    async def keep(self, units: Iterable[Unit]) -> None:
        """Keep what the logs of these units have now, as far as that takes no longer than some seconds."""
        if self._kept is None:
            return
        try:
            async with asyncio.timeout(_TIMEOUT):
                await asyncio.gather(*map(self._keep, units))
        except TimeoutError:
            self._events.record(
                "", f"some logs are not kept, which took longer than {_TIMEOUT:g} s"
            )

    def keep_soon(self, unit: Unit, end: str = "") -> None:
        """Keep the log of a unit that has ended, of which `end` is known, beside what else goes on."""
        if self._kept is not None:
            task = asyncio.ensure_future(self._keep(unit, end))
            self._later.add(task)
            task.add_done_callback(self._later.discard)

    async def settle(self) -> None:
        """Wait for the logs that are being kept."""
        if self._later:
            await asyncio.wait([*self._later], timeout=_TIMEOUT)

    async def _keep(self, unit: Unit, end: str = "") -> None:
        path = self.path(unit)
        assert path is not None  # noqa: S101 - as all callers have checked
        if unit.id not in self._mine and path.exists():
            return
        size = MAX_KEPT if self._total < MAX_TOTAL else MAX_LATER
        try:
            async with self._turn:
                text = await contained(self._read(unit, size)) or end
            if text:
                self._total += await asyncio.to_thread(self._write, path, text, size)
                self._mine.add(unit.id)
        except Exception as error:  # noqa: BLE001 - recorded; a log is only an addition to a run
            self._events.record(unit.tag, f"logs are not kept: {describe_error(error)}")

    async def _read(self, unit: Unit, size: int) -> str:
        if isinstance(self._backend, ReadsLogs):
            return await self._backend.read_log(unit, size)
        return (await self._backend.describe(unit)).log_tail

    def _write(self, path: Path, text: str, size: int) -> int:
        assert self._kept is not None  # noqa: S101 - as above
        text = end_of(self._kept.redact(text), size)
        new = path.with_suffix(".new").name
        at = open_log_directory(path.parent, create=True)
        try:
            how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            file = os.open(new, how, 0o600, dir_fd=at)
            with os.fdopen(file, "w", encoding="utf-8", errors="replace") as stream:
                stream.write(text if text.endswith("\n") else text + "\n")
            os.replace(new, path.name, src_dir_fd=at, dst_dir_fd=at)
        finally:
            os.close(at)
        return len(text)
