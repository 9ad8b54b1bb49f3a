"""How the logs of workers are kept, of a backend that reads them whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scalable.cluster.events import EventLog
from scalable.cluster.log_directory import MAX_KEPT, keep_logs_in
from scalable.cluster.logs import LogKeeper
from scalable.cluster.port import Explanation, GroupSpec, Leftover, Reason, Unit, UnitState
from scalable.providers.logs import tidy_logs

UNIT = Unit("gcam-1", "gcam", "request")


class Reading:
    """A backend that has nothing but logs."""

    logs_outlive_units = False

    def __init__(self) -> None:
        self.log: str | Exception = ""

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        return []

    async def observe(self) -> Mapping[str, UnitState]:
        return {}

    async def stop(self, units: Sequence[Unit]) -> None:
        pass

    async def describe(self, unit: Unit) -> Explanation:
        return Explanation(Reason.UNKNOWN, "a unit")

    async def sweep(self) -> Sequence[Leftover]:
        return []

    async def read_log(self, unit: Unit, size: int) -> str:
        if isinstance(self.log, Exception):
            raise self.log
        return self.log


def keep(directory: Path, *logs: str | Exception) -> EventLog:
    events, backend = EventLog(), Reading()

    async def main() -> None:
        with keep_logs_in(directory, lambda text: text.replace("secret", "${KEY}")):
            keeper = LogKeeper(backend, events)
        for log in logs:
            backend.log = log
            await keeper.keep([UNIT])

    asyncio.run(main())
    return events


def test_a_log_is_kept_without_secrets_and_renewed(tmp_path: Path) -> None:
    keep(tmp_path / "logs", "one\n", "one\nsecret\n")

    assert (tmp_path / "logs" / "gcam-1.log").read_text() == "one\n${KEY}\n"


def test_only_the_end_of_a_long_log_is_kept(tmp_path: Path) -> None:
    keep(tmp_path, "a line\n" * MAX_KEPT)

    kept = (tmp_path / "gcam-1.log").read_bytes()
    assert len(kept) < MAX_KEPT + 100
    assert kept.startswith(b"[the first 6000")
    assert kept.endswith(b"a line\n")


def test_a_log_that_its_worker_writes_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "gcam-1.log").write_text("its own")

    keep(tmp_path, "another")

    assert (tmp_path / "gcam-1.log").read_text() == "its own"


def test_a_log_that_can_no_longer_be_read_stays_as_it_was(tmp_path: Path) -> None:
    events = keep(tmp_path, "one\n", "", OSError("no route"))

    assert (tmp_path / "gcam-1.log").read_text() == "one\n"
    assert [event.text for event in events] == ["logs are not kept: no route"]


@pytest.mark.parametrize("swapped", ["logs", "run"])
def test_logs_are_not_led_to_other_files_of_the_user(tmp_path: Path, swapped: str) -> None:
    """Another user who can write above the directory of a run puts a link in its place."""
    elsewhere = tmp_path / "own"
    (elsewhere / "logs").mkdir(parents=True)
    precious = elsewhere / "logs" / "gcam-2.log"
    precious.write_text("a secret of the user\n")
    directory = tmp_path / "run" / "logs"
    if swapped == "run":
        directory.parent.symlink_to(elsewhere)
    else:
        directory.parent.mkdir()
        directory.symlink_to(precious.parent)

    events = keep(directory, "one\n")
    with pytest.raises(PermissionError, match="another user has replaced it"):
        tidy_logs(directory, lambda text: text.replace("secret", "${KEY}"))

    assert precious.read_text() == "a secret of the user\n"
    assert [*precious.parent.iterdir()] == [precious]
    assert "another user has replaced it" in [*events][-1].text


def test_a_log_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("a secret of the user\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gcam-1.log").symlink_to(precious)

    with pytest.raises(OSError, match="symbolic links"):
        tidy_logs(tmp_path / "logs", lambda text: text.replace("secret", "${KEY}"))

    assert precious.read_text() == "a secret of the user\n"
