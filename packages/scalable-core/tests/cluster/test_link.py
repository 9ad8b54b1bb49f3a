"""The engine on a scheduler and workers that have none of our packages, as in a stock image."""

from __future__ import annotations

import io
import json
import operator
import os
import pickle
import pkgutil
import site
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from dask.delayed import delayed
from distributed import Client
from distributed.core import rpc
from distributed.security import Security
from distributed.utils import LoopRunner

from scalable.client import ScalableClient
from scalable.cluster import GroupedCluster, plugin
from scalable.cluster.link import pickled_plugin
from scalable.cluster.port import GroupSpec, Reason
from scalable.errors import GroupFailedError

Start = Callable[..., GroupedCluster]
Until = Callable[..., None]


@pytest.fixture
def stock(tmp_path: Path) -> dict[str, str]:
    """An environment like this one, except that nothing of ours is installed in it."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    for directory in map(Path, (*site.getsitepackages(), site.getusersitepackages())):
        for entry in directory.iterdir() if directory.is_dir() else ():
            ours = entry.name.startswith(("scalable", "_scalable", "__editable__"))
            if not ours and entry.suffix != ".pth" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return {**os.environ, "PYTHONPATH": str(packages)}


def stock_python(*arguments: str) -> list[str]:
    """Run Python without its own site-packages, so that no .pth file leads to our sources."""
    return [sys.executable, "-S", *arguments]


class Remote:
    """A host whose scheduler is a process."""

    def __init__(self, address: str, process: subprocess.Popen[bytes]) -> None:
        self.scheduler_address = address
        self.dashboard_link = ""
        self.security = Security()
        self._process = process
        self._runner = LoopRunner(asynchronous=False)
        self._runner.start()
        self.loop = self._runner.loop
        self.scheduler_comm: Any = rpc(address)

    def close(self, timeout: float | None = None) -> None:
        self._runner.run_sync(self.scheduler_comm.close_rpc)
        self._process.terminate()
        self._process.wait(timeout or 30)
        self._runner.stop()


@pytest.fixture
def host(stock: dict[str, str], tmp_path: Path) -> Iterator[Remote]:
    """Start a stock scheduler."""
    file = tmp_path / "scheduler.json"
    with (tmp_path / "scheduler.log").open("wb") as log:
        process = subprocess.Popen(
            stock_python(
                *("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"),
                *("--no-dashboard", "--scheduler-file", str(file)),
            ),
            cwd=tmp_path,
            env=stock,
            stdout=log,
            stderr=log,
        )
    try:
        with Client(scheduler_file=str(file), timeout=30):  # waits for the file
            address = json.loads(file.read_text())["address"]
        yield Remote(address, process)
    finally:
        process.kill()
        process.wait()


def test_a_stock_scheduler_and_stock_workers_serve_groups(
    start_processes: Start, processes: Any, stock: dict[str, str], until: Until
) -> None:
    def has_scalable() -> bool:
        try:
            import scalable.cluster.plugin  # noqa: F401 - whether it works is the question
        except ImportError:
            return False
        return True

    processes.python, processes.environment = stock_python(), stock
    cluster = start_processes("a", GroupSpec("b", slots=2))
    cluster.scale_groups({"a": 1, "b": 1})
    cluster.wait_for_group("a", timeout=60)
    cluster.wait_for_group("b", timeout=60)
    with ScalableClient(cluster) as client:
        assert not client.run_on_scheduler(has_scalable)
        assert not any(client.run(has_scalable).values())
        assert client.submit(operator.add, 1, 2, tag="b", n=2).result(timeout=30) == 3
        held = client.submit(operator.add, 3, 4, tag="a")
        assert held.result(timeout=30) == 7
        cluster.scale_groups({"a": 0})
        until(lambda: not cluster.groups["a"].draining)
        assert held.result(timeout=30) == 7


def test_a_task_that_fails_shows_its_lines(
    start_processes: Start, processes: Any, stock: dict[str, str], cell: dict[str, Any]
) -> None:
    processes.python, processes.environment = stock_python(), stock
    cluster = start_processes("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=60)
    fail = cell["fail"]
    with ScalableClient(cluster) as client:
        (mapped,) = client.map(fail, [1], tag="a")
        futures = {
            "tagged": client.submit(fail, 2, tag="a"),
            "without a tag": client.submit(fail, 3),
            "mapped": mapped,
            "method": client.submit(cell["Model"]().run, tag="a"),
            "delayed": client.compute(delayed(fail)(4)),
            "from a task": client.submit(cell["submit_another"], 5, tag="a"),
        }
        for how, future in futures.items():
            with pytest.raises(ZeroDivisionError) as caught:
                future.result(timeout=60)
            frames = traceback.extract_tb(caught.value.__traceback__)
            assert [frame.line for frame in frames][-2:] == ["return (lambda: x / y)()"] * 2, how


def test_the_error_of_a_failed_group_passes_through_a_stock_scheduler(
    start_processes: Start, processes: Any, stock: dict[str, str]
) -> None:
    processes.python = ["/nonexistent/python"]
    cluster = start_processes("a")
    cluster.scale_groups({"a": 1})
    with ScalableClient(cluster) as client:
        future = client.submit(operator.add, 1, 2, tag="a")
        with pytest.raises(GroupFailedError, match="/nonexistent/python") as caught:
            future.result(timeout=60)
        assert caught.value.explanation.reason is Reason.UNKNOWN
        assert caught.value.tag == "a"


class Recorder(pickle.Unpickler):
    """Unpickles, and notes what it had to import."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.imported: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.imported.add(module)
        return super().find_class(module, name)


def test_every_module_of_the_plugin_is_sent_by_value() -> None:
    for_scheduler = pickled_plugin({"a": 1})
    recorders = [Recorder(for_scheduler)]
    recorders.append(Recorder(recorders[0].load().worker_plugin))
    recorders[1].load()
    imported = set().union(*(recorder.imported for recorder in recorders))
    assert "distributed.diagnostics.plugin" in imported
    assert not [module for module in imported if module.startswith("scalable")]
    modules = [f"{plugin.__name__}.{found.name}" for found in pkgutil.iter_modules(plugin.__path__)]
    assert modules
    # A function that travels takes the name of its module along.
    assert not [module for module in modules if module.encode() not in for_scheduler]


def test_clusters_can_start_at_the_same_time() -> None:
    # They share one set of modules that cloudpickle pickles by value.
    with ThreadPoolExecutor(4) as threads:
        pickles = [*threads.map(pickled_plugin, [{"a": 1}] * 200)]
    assert len(pickles) == 200
    assert not cloudpickle.list_registry_pickle_by_value()
