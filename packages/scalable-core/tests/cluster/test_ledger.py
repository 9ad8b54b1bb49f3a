"""The ledger: intents on disk before anything is made, and what is read of it after a kill."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scalable.cluster.ledger import FILE, Ledger, ledger_in, new_run_id, read_ledger
from scalable.cluster.port import GroupSpec, LaunchResult, Unit
from scalable.testing.simulation import SimulatedBackend, Simulation, in_virtual_time


def events(directory: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in (directory / FILE).read_text().splitlines()]


def test_a_run_id_is_in_the_ledger_before_anybody_has_it(tmp_path: Path) -> None:
    with ledger_in(tmp_path):
        run_id = new_run_id("hpc", 12)

    found = read_ledger(tmp_path)
    assert found is not None
    assert found.run_ids == {run_id}
    assert found.lives is True
    assert run_id.startswith("hpc-")
    assert len(run_id) == len("hpc-") + 12
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_without_a_record_there_is_no_ledger(tmp_path: Path) -> None:
    assert new_run_id("hpc") != new_run_id("hpc")
    assert read_ledger(tmp_path) is None


def test_a_run_whose_intent_cannot_be_written_gets_no_id(tmp_path: Path) -> None:
    with ledger_in(tmp_path / "gone"), pytest.raises(FileNotFoundError):
        new_run_id("hpc")


def test_a_link_in_the_place_of_a_ledger_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with ledger_in(tmp_path), pytest.raises(OSError, match="symbolic"):
        new_run_id("hpc")
    assert not (tmp_path / "elsewhere").exists()


@in_virtual_time
async def test_an_intent_is_written_before_units_are_requested(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    seen: list[bool] = []

    class Watched(SimulatedBackend):
        async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
            written = [each for each in events(directory) if each["event"] == "launch"]
            seen.append(written[-1]["request"] == request_id and written[-1]["n"] == n)
            return await super().launch(group, n, request_id)

    with ledger_in(directory):
        new_run_id("hpc")
        world = Simulation("a")
    world.backend.__class__ = Watched
    async with world:
        await world.scale({"a": 3})
        world.backend.kill("a-1")
        await world.run(60)
        found = read_ledger(directory)
        assert found is not None
        assert sorted(found.units) == sorted(made.unit.id for made in world.backend.alive())
        assert set(found.units.values()) == {f"native {name}" for name in found.units}
        assert found.launched == 4
    assert seen == [True, True]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("r1")
    ledger.made([Unit("a-1", "a", "r", "4711_0")])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "gone", "uni')

    found = read_ledger(tmp_path)
    assert found is not None
    assert found.units == {"a-1": "4711_0"}


@pytest.mark.parametrize("lines", [["7"], ["null", "[]"], ['{"event": "run", "run_id": 7}']])
def test_what_is_no_event_is_left_out(tmp_path: Path, lines: Sequence[str]) -> None:
    (tmp_path / FILE).write_text("\n".join(lines))

    assert read_ledger(tmp_path) is None
