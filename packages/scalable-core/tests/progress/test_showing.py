import io
import sys
from typing import Any

import pytest
from rich.console import Console

from scalable.cluster.port import GroupStatus, Reason
from scalable.progress import showing
from scalable.progress.showing import PlainView, Snapshot, render
from scalable.progress.status import describe_tasks
from scalable.runs.tally import TaskCount


def group(running: int, **facts: Any) -> dict[str, GroupStatus]:
    return {"gcam": GroupStatus("gcam", wanted=4, running=running, **facts)}


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_a_line_is_written_when_something_has_changed(out: io.StringIO) -> None:
    view = PlainView(out, interval=10)
    for elapsed in (0, 20, 40):
        view.update(Snapshot(elapsed, group(3, pending=1, reason=Reason.PRIORITY)))

    assert out.getvalue() == "scalable: gcam 3/4 running, 1 pending: priority\n"


def test_changes_in_quick_succession_make_one_line(out: io.StringIO) -> None:
    view = PlainView(out, interval=10)
    for elapsed, running in ((0, 0), (1, 1), (2, 2), (11, 3)):
        view.update(Snapshot(elapsed, group(running)))

    assert out.getvalue().splitlines() == [
        "scalable: gcam 0/4 running",
        "scalable: gcam 3/4 running",
    ]


def test_complete_and_failed_groups_are_reported_immediately(out: io.StringIO) -> None:
    view = PlainView(out, interval=10)
    view.update(Snapshot(0, group(0), {"f": TaskCount(left=2)}))
    view.update(Snapshot(1, group(4), {"f": TaskCount(done=2)}))
    view.update(Snapshot(2, group(0, failed=True, detail="no such image")))

    assert out.getvalue().splitlines() == [
        "scalable: gcam 0/4 running",
        "scalable: 0/2 tasks done",
        "scalable: gcam 4/4 running",
        "scalable: 2/2 tasks done",
        "scalable: gcam 0/4 running, failed: no such image",
    ]


def test_a_group_that_never_wanted_workers_is_not_reported(out: io.StringIO) -> None:
    view = PlainView(out, interval=10)
    idle = {"gcam": GroupStatus("gcam", minimum=0, maximum=4)}
    view.update(Snapshot(0, idle))
    assert out.getvalue() == ""
    view.update(Snapshot(20, group(4)))
    view.update(Snapshot(40, idle))

    assert out.getvalue().splitlines() == [
        "scalable: gcam 4/4 running",
        "scalable: gcam 0/0 running of 0 to 4",
    ]


def test_the_live_view_has_a_line_for_each_group_and_one_for_tasks() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(render(Snapshot(65, group(4), {"f": TaskCount(done=1, failed=1, left=2)})))

    first, second, _ = capture.get().split("\n")
    assert first.strip() == "● gcam 4/4 running"
    assert second.rstrip().endswith("1:05 1/4 tasks done, 1 failed")


def test_kinds_of_tasks_have_a_line_of_their_own_on_a_narrow_terminal() -> None:
    kinds = {name: TaskCount(left=9) for name in ("fair.simulate", "analysis.project", "fan_chart")}
    console = Console(file=io.StringIO(), width=60)
    with console.capture() as capture:
        console.print(render(Snapshot(5, {}, kinds), 60))

    first, second, _ = capture.get().split("\n")
    assert first.endswith("0:05 0/27 tasks done")
    assert second == "  fair.simulate 0/9, analysis.project 0/9, fan_chart 0/9"


def test_of_many_kinds_of_tasks_those_with_most_to_do_are_named() -> None:
    counts = {f"f{left}": TaskCount(left=left) for left in range(1, 7)}

    assert describe_tasks(counts) == "0/21 tasks done (f3 0/3, f4 0/4, f5 0/5, f6 0/6, …)"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_all_that_matters_fits_a_narrow_terminal(width: int) -> None:
    why = (
        "QOSMaxCpuPerUserLimit: other jobs of this account are ahead in the queue of the partition"
    )
    snapshot = Snapshot(
        3725,
        {
            "gcam": GroupStatus("gcam", wanted=40, running=13, pending=27, detail=why),
            "plots": GroupStatus("plots", wanted=1, running=1),
        },
        {
            "gcam.simulate": TaskCount(done=1180, failed=12, left=3000),
            "plots.draw": TaskCount(left=4),
        },
        rest=2400.0,
    )
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(
        render(snapshot, width), no_wrap=True, overflow="ellipsis", crop=True
    )

    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 6
    text = " ".join(" ".join(lines).split())
    for expected in (
        *("gcam 13/40 running, 27 pending", "QOSMaxCpuPerUserLimit", "plots 1/1 running"),
        *("1180/4196 tasks done, 12", "gcam.simulate 1180/4192, plots.draw 0/4"),
    ):
        assert expected in text, text
    if width > 60:
        assert "12 failed, about 40 min left" in text


@pytest.mark.parametrize("width", [-1, 0, 1, 2, 5, 11])
def test_a_terminal_without_room_ends_nothing(width: int) -> None:
    kinds = {"a": TaskCount(left=5), "b": TaskCount(done=2)}
    Console(file=io.StringIO(), width=80).print(render(Snapshot(5, group(1), kinds), width))


@pytest.mark.parametrize("columns", ["0", "3"])
def test_a_terminal_that_says_it_has_no_columns_gets_lines(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    assert showing._terminal_area() is not None
    monkeypatch.setenv("COLUMNS", columns)
    assert showing._terminal_area() is None


def test_what_is_left_is_told_and_makes_no_line_by_itself(out: io.StringIO) -> None:
    view = PlainView(out, interval=10)
    for elapsed, rest in ((0, None), (20, 100.0), (40, 80.0)):
        view.update(Snapshot(elapsed, {}, {"f": TaskCount(done=elapsed // 20, left=4)}, rest=rest))
        view.update(
            Snapshot(elapsed + 12, {}, {"f": TaskCount(done=elapsed // 20, left=4)}, rest=5.0)
        )

    assert out.getvalue().splitlines() == [
        "scalable: 0/4 tasks done",
        "scalable: 1/5 tasks done, about 2 min left",
        "scalable: 2/6 tasks done, about 80 s left",
    ]
