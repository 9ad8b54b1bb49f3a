"""Modules reach a stock scheduler and stock workers: processes in which `scalable` cannot be imported."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from scalable.modules import ModuleArchive, pack_workflow, upload_modules

STOCK = """\
import runpy, sys
sys.modules["scalable"] = None
runpy.run_module("distributed.cli." + sys.argv.pop(1), run_name="__main__")
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a stock Dask process in an empty directory, and kill it after the test."""
    with ExitStack() as stack:

        def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
            empty = tmp_path / "empty"
            empty.mkdir(exist_ok=True)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", STOCK, module, *arguments],
                    cwd=empty,
                    env={**os.environ, "PYTHONPATH": "", "TMPDIR": str(empty)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def address(start: Start, tmp_path: Path) -> str:
    """Start a stock scheduler."""
    file = tmp_path / "scheduler.json"
    start(
        "dask_scheduler",
        *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
    )
    with Client(scheduler_file=str(file), timeout=30):  # waits for the file
        return str(json.loads(file.read_text())["address"])


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleArchive:
    """Pack a workflow's directory that this process imports from."""
    workflow = tmp_path / "workflow"
    (workflow / "climate_package").mkdir(parents=True)
    (workflow / "climate_package" / "__init__.py").write_text(
        "from pathlib import Path\n"
        "def table():\n"
        "    return (Path(__file__).parent / 'table.csv').read_text()\n"
    )
    (workflow / "climate_package" / "table.csv").write_text("1,2,3")
    (workflow / "climate_helpers.py").write_text(
        "import climate_package\n"
        "def simulate(x):\n"
        "    return x + 1, climate_package.table()\n"
        "def fail():\n"
        "    raise ValueError('no such scenario')\n"
        "side_effects = []\n"
    )
    (workflow / "workflow.py").write_text("raise SystemExit('imported without being asked for')")
    monkeypatch.syspath_prepend(workflow)
    packed = pack_workflow(workflow)
    assert packed is not None
    return packed


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    """Remove modules that other tests import under the same names."""
    yield
    for name in ("climate_helpers", "climate_package"):
        sys.modules.pop(name, None)


def worker(address: str, name: str) -> tuple[str, ...]:
    return ("dask_worker", address, "--no-nanny", "--no-dashboard", "--name", name)


def test_workers_and_scheduler_without_our_packages_import_the_modules(
    start: Start, address: str, archive: ModuleArchive
) -> None:
    import climate_helpers  # type: ignore[import-not-found]  # written by the fixture

    start(*worker(address, "present"))
    with Client(address) as client:
        client.wait_for_workers(1, timeout=30)
        upload_modules(client, archive)
        start(*worker(address, "future"))
        client.wait_for_workers(2, timeout=30)

        for name in ("present", "future"):
            result = client.submit(climate_helpers.simulate, 1, workers=name, pure=False)
            assert result.result(timeout=30) == (2, "1,2,3")


def test_modules_replace_those_of_an_earlier_upload_in_a_new_worker(
    start: Start, address: str, archive: ModuleArchive, tmp_path: Path
) -> None:
    import climate_helpers

    changed = tmp_path / "workflow" / "climate_helpers.py"
    with Client(address) as client:
        upload_modules(client, archive)
        changed.write_text("def simulate(x):\n    return 'changed'\n")
        newer = pack_workflow(changed.parent)
        assert newer is not None
        upload_modules(client, newer)
        start(*worker(address, "new"))
        client.wait_for_workers(1, timeout=30)

        assert client.submit(climate_helpers.simulate, 1).result(timeout=30) == "changed"


def test_a_module_of_the_workflow_replaces_no_installed_one(
    start: Start, address: str, tmp_path: Path
) -> None:
    workflow = tmp_path / "workflow"
    workflow.mkdir()
    for name in ("wave", "pytest", "climate_helpers"):
        (workflow / f"{name}.py").write_text("side_effects = []\n")
    archive = pack_workflow(workflow)
    assert archive is not None

    def place(name: str) -> str:
        return str(Path(importlib.import_module(name).__file__ or "").parent)

    start(*worker(address, "a"))
    with Client(address) as client:
        upload_modules(client, archive)
        found = [client.submit(place, name) for name in ("wave", "pytest", "climate_helpers")]
        places = client.gather(found)

    assert places[:2] == [place("wave"), place("pytest")]
    assert places[2] == str(workflow)


def test_workers_inside_this_process_are_left_alone(archive: ModuleArchive) -> None:
    before = list(sys.path)
    with (
        LocalCluster(
            n_workers=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        scratch = client.run(lambda dask_worker: dask_worker.local_directory)
        upload_modules(client, archive)

        assert not [entry for entry in sys.path if "modules-" in entry]
        assert not list(Path(*scratch.values()).glob("modules-*"))
    assert sys.path == before
