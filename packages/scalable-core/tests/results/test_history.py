"""Why calls are computed again, from the rows of an earlier run."""

from __future__ import annotations

from typing import Any

from scalable.results.history import EarlierRun, calls_row
from scalable.results.naming import NamedCall

STORE: dict[str, dict[str, Any]] = {
    "run/v1/aa": {"code": {"f": "1"}, "sources": {"f": "a\n"}, "arguments": {"x": "1"}},
    "run/v1/bb": {"code": {"f": "1"}, "sources": {"f": "a\n"}, "arguments": {"x": "2", "y": "3"}},
    "run/v2": {"code": {"f": "2"}, "sources": {"f": "b\n"}, "arguments": {}},
    "run/v1": {"code": {"f": "1"}, "sources": {"f": "a\n"}, "arguments": {}},
}


def describe(name: str) -> dict[str, Any]:
    return STORE.get(name) or STORE.get(name.rpartition("/")[0], {})


def call(name: str | None, **arguments: str) -> NamedCall:
    return NamedCall(name, (*arguments,), (*arguments.values(),))


def earlier(*calls: str, ends: dict[str, str] | None = None) -> EarlierRun:
    rows = [calls_row("run", [f"run/v1/{each}" for each in calls], [])]
    done = [{"task": f"gcam.run-{key}", "status": end} for key, end in (ends or {}).items()]
    return EarlierRun("r1", rows, done, describe)


def test_what_became_of_the_same_call_is_said() -> None:
    run = earlier("aa", "bb", "cc", ends={"v1aa": "failed", "v1bb": "done"})
    calls = [call(f"run/v1/{each}") for each in ("aa", "bb", "cc")]
    again = run.explain("run", calls, [])
    assert [each.reasons for each in again] == [
        ("it failed in run r1",),
        ("run r1 had computed it, and the store has no result of it now",),
        ("run r1 had not finished it",),
    ]


def test_what_has_changed_is_said_with_the_difference() -> None:
    (again,) = earlier("aa").explain("run", [call("run/v2/aa", x="1")], [])
    assert again.reasons == ("code f has changed",)
    assert "-a\n+b\n" in again.diff
    (again,) = earlier("bb").explain("run", [call("run/v1/dd", x="2", y="4")], [])
    assert again.reasons == ("argument y has changed",)
    (again,) = earlier("bb").explain("run", [call("run/v2/dd", x="5", y="3")], [])
    assert again.reasons == ("code f has changed", "argument x has changed")
    (again,) = earlier("zz").explain("run", [call("run/v1/dd", x="2")], [])
    assert again.reasons == ("its arguments have changed",)


def test_members_that_are_new_or_kept_or_of_new_tasks() -> None:
    run = earlier("aa")
    calls = [call("run/v1/aa"), call(None), call("run/v1/bb")]
    (again,) = run.explain("run", calls, ["run/v1/aa"])
    assert (again.member, again.reasons) == (2, ("run r1 had no such member",))
    assert run.explain("other", [call("other/v1/aa")], []) == []
