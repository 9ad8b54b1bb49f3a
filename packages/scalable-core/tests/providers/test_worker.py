"""The program that starts workers and schedulers, as processes of their own."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scalable.providers.entry import NoCollection
from scalable.providers.worker import server_command, watched_worker, worker_arguments

NOWHERE = "tcp://127.0.0.1:1"
"""No scheduler listens there; a worker that gets that far waits for it."""

OF_DASK = {
    *("dask", "distributed", "click", "tornado", "yaml", "tlz", "toolz", "cloudpickle", "msgpack"),
    *("zict", "sortedcontainers", "tblib", "psutil", "locket", "partd", "packaging", "jinja2"),
    # What Dask imports if it is there.
    *("bokeh", "cupy", "lz4", "numpy", "numba", "pandas", "setproctitle", "snappy", "uvloop"),
    *("zstandard", "netCDF4", "h5py", "jupyter_server_proxy", "scalable"),
}
FOR_STARTUP = {"sitecustomize", "usercustomize", "encodings", "codecs", "io", "abc", "zipimport"}
if sys.version_info >= (3, 13):
    FOR_STARTUP.add("linecache")
"""Python imports these before it runs any program, and from 3.13 `linecache` for one given by ``-c``."""


@pytest.mark.parametrize("server", ["worker", "scheduler"])
@pytest.mark.parametrize("search_path", [None, ":/opt/model", "."])
def test_no_file_of_the_current_directory_replaces_a_module(
    tmp_path: Path, server: str, search_path: str | None
) -> None:
    names = {*sys.stdlib_module_names, *OF_DASK} - FOR_STARTUP
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"raise BaseException('the {name} of the user')")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if search_path is not None:
        environment["PYTHONPATH"] = search_path

    done = subprocess.run(
        [*server_command(sys.executable, server), "--help"],  # type: ignore[arg-type]
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: dask {server}" in done.stdout


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def dask_setup(worker):\n    raise RuntimeError('no licence')", "no licence"),
        ("async def dask_setup(worker):\n    raise RuntimeError('no licence')", "no licence"),
        ("def dask_setup(worker):\n    raise SystemExit(0)", "SystemExit: 0"),
        ("def dask_setup(worker):\n    raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def dask_setup():\n    pass", "dask_setup() takes 0 positional arguments"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("import sys\nsys.exit('no licence')", "no licence"),
        ("def dask_setup(worker:", "SyntaxError"),
    ],
)
def test_a_preload_that_fails_ends_its_worker_with_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    preload = tmp_path / "prepare_for_test_worker.py"
    preload.write_text(text)

    done = started_with(str(preload), tmp_path)

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("the worker could not start: ")
    assert reason in last
    assert "Traceback" in done.stderr
    assert "prepare_for_test_worker.py" in done.stderr


def test_a_preload_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = started_with(str(tmp_path / "missing.py"), tmp_path)

    assert done.returncode == 1
    assert "missing" in done.stderr.splitlines()[-1]


def test_a_preload_of_the_configuration_that_fails_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "['no_such_module']")

    done = started_with(None, tmp_path)

    assert done.returncode == 1
    assert "configuration here sets distributed.worker.preload: " in done.stderr.splitlines()[-1]


def started_with(preload: str | None, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a worker with a preload until it ends."""
    arguments = worker_arguments(
        NOWHERE,
        tag="a",
        slots=1,
        memory=None,
        directory=str(directory),
        preload=preload,
        extra=("--host", "127.0.0.1"),
    )
    return subprocess.run(
        [*server_command(sys.executable, "worker"), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_garbage_is_collected_again_after_imports_that_fail() -> None:
    def fail() -> None:
        with NoCollection():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()
    gc.unfreeze()


WORKER = """
import os, signal, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
os.kill(os.getpid(), signal.SIGSTOP)  # as one whose task holds the global lock for good
"""


def watched(port: int, silence: int, **options: bool) -> list[str]:
    program = watched_worker(port, silence=silence, every=0.1, **options)
    return [sys.executable, "-c", f"import sys\ncommand = sys.argv[1:]\n{program}"]


@pytest.mark.parametrize("through_notice", [False, True])
def test_a_frozen_worker_is_killed_once_it_has_no_scheduler(through_notice: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        port = scheduler.getsockname()[1]
        command = [*watched(port, 2, through_notice=through_notice), sys.executable, "-c", WORKER]
        with subprocess.Popen([*command, str(port)], stderr=subprocess.PIPE, text=True) as process:
            connection, _ = scheduler.accept()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(6)  # it may be frozen for as long as it has its scheduler
            connection.close()
            _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert stderr == "killed: the worker lost the scheduler 2 s ago, and has not ended\n"


@pytest.mark.parametrize("name", ["net_connections", "connections"])
def test_a_worker_whose_connections_cannot_be_seen_is_not_killed(name: str, tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text(f"""
class Error(Exception):
    pass

class Process:
    def __init__(self, pid):
        pass

    def children(self, recursive):
        return []

    def {name}(self, kind):
        with open("asked", "a") as file:
            file.write(kind)
        raise Error
""")
    ends_once_asked_often = """
import os, time
while not os.path.exists("asked") or os.path.getsize("asked") < 10 * len("tcp"):
    time.sleep(0.1)
"""
    done = subprocess.run(
        [*watched(1, -1), sys.executable, "-c", ends_once_asked_often],
        cwd=tmp_path,  # first on the path of modules
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_worker_that_ends_by_itself_ends_its_program() -> None:
    for code, status in (("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)):
        command = [*watched(1, 60), sys.executable, "-c", f"import os, sys; {code}"]
        done = subprocess.run(command, timeout=60, check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (status, b"")
