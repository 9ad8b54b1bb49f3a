"""Modules reach a stock scheduler and stock workers: processes in which `scalable` cannot be imported."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from operator import call as apply
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster

from scalable.modules import ModuleArchive, pack_workflow, upload_modules
from scalable.modules.upload import update_message

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


def pack(workflow: Path) -> ModuleArchive:
    archive = pack_workflow(workflow)
    assert archive is not None
    return archive


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, "")
    return buffer.getvalue()


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


def elsewhere(archive: ModuleArchive) -> ModuleArchive:
    """Return the archive as on a machine that has none of the originals."""
    origins = {
        name: origin._replace(path=f"/laptop/{name}") for name, origin in archive.origins.items()
    }
    return replace(archive, origins=origins, directories=())


def frames(error: BaseException) -> list[tuple[str, int | None]]:
    """List the files and lines of a traceback."""
    return [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]


def test_tracebacks_name_the_users_own_file(
    start: Start, address: str, archive: ModuleArchive
) -> None:
    import climate_helpers

    start(*worker(address, "a"))
    with Client(address) as client:
        upload_modules(client, elsewhere(archive))
        future = client.submit(climate_helpers.fail)
        with pytest.raises(ValueError, match="no such scenario") as caught:
            future.result(timeout=30)
        assert frames(caught.value)[-1] == ("/laptop/climate_helpers.py", 5)

        def text() -> str:
            try:
                climate_helpers.fail()
            except ValueError:
                return traceback.format_exc()
            return ""

        # On the worker, the source is that of the copy.
        shown = client.submit(text).result(timeout=30)
        assert "raise ValueError('no such scenario')" in shown


def test_originals_are_used_where_they_are_unchanged(
    start: Start, address: str, archive: ModuleArchive, tmp_path: Path
) -> None:
    import climate_helpers

    def places() -> tuple[str, str]:
        import climate_package  # type: ignore[import-not-found]  # written by the fixture

        return climate_helpers.__file__, climate_package.__file__

    (tmp_path / "workflow" / "climate_helpers.py").touch()  # changed, as far as the worker can tell
    start(*worker(address, "a"))
    with Client(address) as client:
        upload_modules(client, archive)
        copied, original = client.submit(places).result(timeout=30)
    assert "modules-" in copied
    assert original == str(tmp_path / "workflow" / "climate_package" / "__init__.py")


def test_changed_modules_are_used_by_every_task_that_is_submitted_later(
    start: Start, address: str, archive: ModuleArchive, tmp_path: Path
) -> None:
    import climate_helpers

    def state() -> tuple[list[str], list[str]]:
        import climate_package

        return climate_helpers.side_effects, climate_package.table()

    workflow = tmp_path / "workflow"
    start(*worker(address, "present"))
    with Client(address) as client:
        upload_modules(client, elsewhere(archive))
        assert client.submit(climate_helpers.simulate, 1).result(timeout=30) == (2, "1,2,3")
        client.submit(lambda: climate_helpers.side_effects.append("used")).result(timeout=30)

        (workflow / "unused.py").touch()
        client._send_to_scheduler(update_message(elsewhere(pack(workflow))))
        assert client.submit(state, pure=False).result(timeout=30) == (["used"], "1,2,3")

        for text in ("4", "5", "6"):
            # The module that is called is not edited, and imports another one.
            (workflow / "climate_package" / "__init__.py").write_text(
                f"def table(): return {text!r}"
            )
            client._send_to_scheduler(update_message(elsewhere(pack(workflow))))
            # In one message with the update, and unpickled as an argument.
            future = client.submit(apply, climate_helpers.simulate, 1, pure=False)
            assert future.result(timeout=30) == (2, text)
            assert client.submit(state, pure=False).result(timeout=30) == ([], text)

        start(*worker(address, "future"))
        client.wait_for_workers(2, timeout=30)
        late = client.submit(climate_helpers.simulate, 1, workers="future", pure=False)
        assert late.result(timeout=30) == (2, "6")


def test_a_preferred_module_takes_the_place_of_an_installed_one(
    start: Start, address: str, archive: ModuleArchive
) -> None:
    def place() -> str:
        return str(importlib.import_module("wave").__file__)

    names = {"wave.py": archive.origins["climate_helpers.py"]}
    preferring = replace(
        archive,
        data=zipped("wave.py"),
        digest="0" * 64,
        origins=names,
        preferred=frozenset({"wave"}),
    )
    start(*worker(address, "a"))
    with Client(address) as client:
        upload_modules(client, elsewhere(preferring))
        assert "modules-" in client.submit(place).result(timeout=30)


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


def test_a_compiled_module_beside_the_workflow_reaches_workers(
    start: Start, address: str, tmp_path: Path
) -> None:
    compiled = next(Path(psutil.__file__).parent.glob("_psutil_*.so"))
    name = compiled.name.partition(".")[0]  # it is imported as a part of psutil, and by itself
    (tmp_path / "workflow").mkdir()
    shutil.copy(compiled, tmp_path / "workflow" / compiled.name)
    archive = elsewhere(pack(tmp_path / "workflow"))
    shutil.rmtree(tmp_path / "workflow")

    start(*worker(address, "a"))
    with Client(address) as client:
        upload_modules(client, archive)
        found = client.submit(lambda: str(importlib.import_module(name).__file__))
        assert "modules-" in found.result(timeout=30)


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
