"""Show the progress of a run: a live area on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

from scalable.progress.counting import Counted, count_tasks
from scalable.progress.status import (
    describe_group,
    describe_kept,
    describe_kinds,
    describe_rest,
    describe_tasks,
)
from scalable.runs.tally import TaskCount, total

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scalable.cluster.port import GroupStatus
    from scalable.progress.terminal import StatusArea
    from scalable.session import ScalableSession

__all__ = [
    "LiveView",
    "PlainView",
    "Snapshot",
    "View",
    "progress_on_stderr",
    "render",
    "show_progress",
]

logger = logging.getLogger("scalable.cli")

_INTERVAL = 0.25
_TASK_INTERVAL = 1.0

NARROWEST = 10
"""Columns below which lines are not cut to the width of the terminal."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at one moment.

    `elapsed` is in seconds, `starting` what the cluster's start waits for, and `kept` how many calls of each task had a
    kept result and how many had none. `rest` is how many seconds what is left will take, where that is known.
    """

    elapsed: float
    groups: Mapping[str, GroupStatus] = field(default_factory=dict)
    tasks: Mapping[str, TaskCount] = field(default_factory=dict)
    starting: str = ""
    kept: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rest: float | None = None


class View(Protocol):
    """Where progress is shown."""

    def update(self, snapshot: Snapshot) -> None:
        """Show this state."""
        ...


class PlainView:
    """A line for each change, for logs.

    Parameters
    ----------
    stream : TextIO
        Where to write.
    interval : float
        Seconds between two lines about the same group or about the tasks.
    """

    def __init__(self, stream: TextIO, *, interval: float = 10.0) -> None:
        self._stream, self._interval = stream, interval
        self._written: dict[str, tuple[float, str]] = {}
        self._started: set[str] = set()

    def update(self, snapshot: Snapshot) -> None:
        """Write what has changed, at most once per interval."""
        if snapshot.starting:
            self._write("start", snapshot.starting, snapshot.elapsed, urgent=False)
        for tag, group in snapshot.groups.items():
            if tag not in self._started and not group.wanted:
                continue  # a group that has never wanted workers is not worth a line
            self._started.add(tag)
            # Written immediately: that a group is complete or has failed.
            urgent = group.failed or group.running == group.wanted
            self._write(f"group {tag}", describe_group(group), snapshot.elapsed, urgent=urgent)
        for task, counts in snapshot.kept.items():
            # Written immediately as far as it is final.
            urgent = not total(snapshot.tasks.values()).left
            self._write(
                f"kept {task}", describe_kept(task, *counts), snapshot.elapsed, urgent=urgent
            )
        if snapshot.tasks:
            done = not total(snapshot.tasks.values()).left
            self._write(
                "tasks",
                describe_tasks(snapshot.tasks),
                snapshot.elapsed,
                urgent=done,
                rest=describe_rest(snapshot.rest),
            )

    def _write(self, about: str, text: str, now: float, *, urgent: bool, rest: str = "") -> None:
        then, before = self._written.get(about, (-float("inf"), ""))
        if text != before and (urgent or now - then >= self._interval):
            self._written[about] = now, text
            # What is left changes all the time, and makes no line by itself.
            line = f"{text}, {rest}" if rest else text
            print(f"scalable: {line}", file=self._stream, flush=True)


class LiveView:
    """A line for each group and a bar for the tasks, at the bottom of a terminal.

    Parameters
    ----------
    area : StatusArea
        The bottom of the terminal.
    """

    def __init__(self, area: StatusArea) -> None:
        self._area = area

    def update(self, snapshot: Snapshot) -> None:
        """Draw this state."""
        self._area.show(render(snapshot, self._area.width))


def render(snapshot: Snapshot, width: int = 80) -> RenderableType:
    """Return a snapshot for display: a line or two for each group, and a bar for the tasks.

    Parameters
    ----------
    snapshot : Snapshot
        What to show.
    width : int
        Columns that there are.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    lines: list[RenderableType] = [
        Text.assemble(*_mark(group), _in_two_lines(describe_group(group), width - 2))
        for group in snapshot.groups.values()
    ]
    lines += [Text(describe_kept(task, *counts)) for task, counts in snapshot.kept.items()]
    minutes, seconds = divmod(int(snapshot.elapsed), 60)
    clock = f"{minutes}:{seconds:02}"
    if snapshot.tasks:
        sums = total(snapshot.tasks.values())
        bar = Table.grid(padding=(0, 1))
        rest = describe_rest(snapshot.rest)
        text = describe_tasks({"": sums}) + (f", {rest}" if rest else "")
        bar.add_row(
            ProgressBar(
                total=sums.all, completed=sums.done, width=max(4, min(24, width // 3 - 10))
            ),
            Text(clock, style="dim"),
            Text(text, no_wrap=True, overflow="ellipsis"),
        )
        lines.append(bar)
        if kinds := describe_kinds(snapshot.tasks):
            lines.append(Text(_in_two_lines(f"  {kinds}", width)))
    else:
        starting = snapshot.starting or "starting the cluster"
        lines.append(Text(clock if lines else f"{starting} {clock}", style="dim"))
    return Group(*lines)


def _in_two_lines(text: str, width: int) -> str:
    """Return a text in lines of that width, two of them at most.

    Examples
    --------
    >>> print(_in_two_lines("gcam 3/4 running, 1 pending: priority", 30))
    gcam 3/4 running, 1 pending:
        priority
    """
    width = max(width, NARROWEST)  # a terminal may become smaller
    return "\n".join(
        textwrap.wrap(text, width, subsequent_indent="    ", max_lines=2, placeholder=" …")
    )


def _mark(group: GroupStatus) -> tuple[tuple[str, str], str]:
    if group.failed:
        return ("✗", "bold red"), " "
    if group.running >= group.wanted:
        return ("●", "green"), " "
    return ("○", "yellow"), " "


@contextmanager
def show_progress(session: ScalableSession, view: View) -> Iterator[None]:
    """Keep a view up to date, from a thread of its own, until the block is left."""
    stopped = threading.Event()
    thread = threading.Thread(
        target=_follow, args=(session, view, stopped), name="scalable-progress", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def progress_on_stderr(session: ScalableSession) -> Iterator[None]:
    """Show progress on stderr: live on a terminal, as lines elsewhere; nowhere if stderr is closed."""
    if sys.stderr is None:  # print() would write to stdout
        yield
        return
    with ExitStack() as stack:
        view: View = PlainView(sys.stderr)
        if area := _terminal_area():
            view = LiveView(area)
            stack.enter_context(area.below_output())
        stack.enter_context(show_progress(session, view))
        yield


def _terminal_area() -> StatusArea | None:
    """Return an area at the bottom of the terminal of stderr; None where that is none, or cannot move its cursor."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    from scalable.progress.terminal import StatusArea

    console = Console(stderr=True)
    # A terminal that does not know its size may say that it has no columns.
    is_usable = not console.is_dumb_terminal and console.width >= NARROWEST
    return StatusArea(console) if is_usable else None


def _follow(session: ScalableSession, view: View, stopped: threading.Event) -> None:
    started = time.monotonic()
    counted = Counted({})
    counted_at = -_TASK_INTERVAL
    last = False
    while not last:
        last = stopped.wait(_INTERVAL)
        if session.closed:  # the teardown is not progress
            return
        if session.is_new:
            continue
        elapsed = time.monotonic() - started
        if session.groups and (last or elapsed - counted_at >= _TASK_INTERVAL):
            counted_at = elapsed
            try:
                counted = count_tasks(session.cluster)
            except Exception:  # the cluster may close at any time; the next interval tries again
                logger.debug("cannot count tasks", exc_info=True)
        # Until there are groups, events are those of the scheduler's start.
        starting = session.events[-1].text if session.events and not session.groups else ""
        view.update(
            Snapshot(elapsed, session.groups, counted.tasks, starting, session.kept, counted.rest)
        )
