"""What tasks do to their worker's process, in processes and in this one: errors, forks, directories."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cloudpickle
import dask
import pytest
from dask.delayed import delayed
from distributed import WorkerPlugin, get_client, get_worker

from scalable.client import ScalableClient
from scalable.session import ScalableSession

if TYPE_CHECKING:
    from conftest import Eventually

MANIFEST = """\
version: 1
project: {name: isolation}
targets:
  processes: {provider: local, workers: 1}
  threads: {provider: local, workers: 1, processes: false}
components:
  single: {cpus: 1}
  shared: {cpus: 2, slots: 2}
"""
LIMIT = 60
"""Seconds for what takes milliseconds. A task that is lost would take for ever."""


@pytest.fixture(scope="module")
def _functions_by_value() -> Iterator[None]:
    """Workers cannot import this module. Dask pickles what it can by reference, so tasks are lambdas and closures."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", params=["processes", "threads"])
def client(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _functions_by_value: None,
) -> Iterator[ScalableClient]:
    directory = tmp_path_factory.mktemp("isolation")
    (directory / "scalable.yaml").write_text(MANIFEST)
    session = ScalableSession.from_yaml(directory / "scalable.yaml", target=request.param)
    with session as client:
        yield client


def run(client: ScalableClient, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    tag = {"tag": "single"} | options
    return client.submit(function, *args, pure=False, **tag).result(timeout=LIMIT)


def raise_it(error: BaseException) -> NoReturn:
    raise error


# -- What a task raises


class PanicException(BaseException):
    """As extensions in Rust raise it."""


class NeedsArgumentsError(Exception):
    def __init__(self, a: str, b: str) -> None:
        super().__init__(a + b)


class UnsendableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


class ExitsWhenPickledError(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit("while it is pickled")


class ExitsWhenUnpickledError(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, ("while it is unpickled",)


class HasNoTextError(Exception):
    def __str__(self) -> str:
        raise LookupError("in __str__")


class ExitsForItsTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit("in __str__")


class HasNoReprError(Exception):
    def __repr__(self) -> str:
        raise LookupError("in __repr__")


class HasNoSize:
    def __sizeof__(self) -> int:
        raise SystemExit("in __sizeof__")


def holds_a_lock() -> NoReturn:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def recurse(n: int = 0) -> int:
    return recurse(n + 1) + 1


def coroutine_that_exits() -> Callable[[], Any]:
    async def exit_in_a_coroutine() -> NoReturn:
        sys.exit("in a coroutine")

    return exit_in_a_coroutine


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: sys.exit(), "SystemExit"),
    (lambda: sys.exit(0), "SystemExit: 0"),
    (lambda: sys.exit("no input"), "SystemExit: no input"),
    (lambda: raise_it(KeyboardInterrupt()), "KeyboardInterrupt"),
    (lambda: raise_it(GeneratorExit("closed")), "GeneratorExit: closed"),
    (lambda: raise_it(asyncio.CancelledError("stop")), "CancelledError: stop"),
    (lambda: raise_it(StopIteration(3)), "StopIteration: 3"),
    (lambda: raise_it(PanicException("index out of bounds")), "PanicException: index out of"),
    (lambda: raise_it(BaseExceptionGroup("two", [SystemExit(1), ValueError(2)])), "two"),
    (lambda: raise_it(NeedsArgumentsError("no ", "licence")), "no licence"),
    (lambda: raise_it(UnsendableError("a handle")), "a handle"),
    (lambda: raise_it(ExitsWhenPickledError()), "while it is pickled"),
    (lambda: raise_it(ExitsWhenUnpickledError()), "while it is unpickled"),
    (lambda: raise_it(HasNoTextError()), "in __str__"),
    (lambda: raise_it(ExitsForItsTextError()), "in __str__"),
    (lambda: raise_it(HasNoReprError("the text")), "in __repr__"),
    (lambda: raise_it(SystemExit("x" * 100_000)), "SystemExit: xxx"),
    (lambda: HasNoSize(), "in __sizeof__"),
    (lambda: holds_a_lock(), "with a lock"),
    (lambda: recurse(), "recursion"),
    (coroutine_that_exits(), "in a coroutine"),
]


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize(("function", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_whatever_a_task_raises_comes_out_of_result(
    client: ScalableClient, function: Callable[[], Any], text: str, tagged: bool
) -> None:
    before = run(client, worker_address)
    tag: dict[str, Any] = {"tag": "single"} if tagged else {"workers": [before]}

    future = client.submit(function, pure=False, **tag)

    with pytest.raises(Exception, match=text) as caught:
        future.result(timeout=LIMIT)
    assert not isinstance(caught.value, TimeoutError)
    assert run(client, worker_address) == before


def worker_address() -> str:
    return get_worker().address


def actor_class() -> Callable[[], Any]:
    class Actor:
        def call(self, number: int) -> Any:
            return ERRORS[number][0]()

    return Actor


@pytest.mark.parametrize(
    "text",
    ["SystemExit: 0", "KeyboardInterrupt", "StopIteration: 3", "a handle", "no licence"],
)
def test_methods_of_actors_fail_as_tasks_do(client: ScalableClient, text: str) -> None:
    before = run(client, worker_address)
    number = [text for _, text in ERRORS].index(text)
    actor = client.submit(actor_class(), actor=True, tag="single", pure=False).result(timeout=LIMIT)

    with pytest.raises(Exception, match=text) as caught:
        actor.call(number).result(timeout=LIMIT)
    assert not isinstance(caught.value, TimeoutError)
    assert run(client, worker_address) == before


def test_a_traceback_begins_with_the_users_frame(client: ScalableClient) -> None:
    future = client.submit(recurse_once, tag="single", pure=False)

    with pytest.raises(ZeroDivisionError):
        future.result(timeout=LIMIT)
    frame = future.traceback()
    assert frame.tb_frame.f_code.co_name == "recurse_once"


def recurse_once() -> float:
    return 1 / 0


# -- Forks


def pools(turns: int) -> int:
    for _ in range(turns):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(abs, [-1, -2])
    return turns


def test_pools_of_forks_end(client: ScalableClient) -> None:
    assert run(client, pools, 20) == 20


def terminated(turns: int) -> set[int | None]:
    codes = set()
    for _ in range(turns):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LIMIT,))
        process.start()
        process.terminate()
        process.join(LIMIT / 2)
        codes.add(process.exitcode)
        process.kill()
    return codes


def test_a_fork_ends_by_sigterm_however_early_it_comes(client: ScalableClient) -> None:
    assert run(client, terminated, 50) == {-signal.SIGTERM}


def status_of_fork(action: Callable[[], Any]) -> int:
    """Return the exit code of a fork of this process that runs `action`, and then goes on with the task."""
    pid = os.fork()
    if pid == 0:
        action()
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def exit_without_worker_and_client() -> None:
    for get in (get_worker, get_client):
        try:
            get()
        except ValueError:
            continue
        os._exit(1)
    os._exit(7)


def exit_by_default_handlers() -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    os._exit(
        7 if (handlers, blocked) == ((signal.default_int_handler, signal.SIG_DFL), set()) else 1
    )


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (lambda: None, 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("no input"), 1),
        (lambda: raise_it(ValueError("in a fork")), 1),
        (lambda: os._exit(5), 5),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
        (lambda: exit_without_worker_and_client(), 7),
        (lambda: exit_by_default_handlers(), 7),
    ],
)
def test_a_fork_ends_as_a_program_does(
    client: ScalableClient, action: Callable[[], Any], status: int
) -> None:
    assert run(client, status_of_fork, action) == status


def held_connections() -> tuple[bool, bool]:
    """Return whether this process, and a fork of it, has the worker's connection to the scheduler."""
    connection: Any = get_worker().batched_stream.comm
    descriptor = connection.stream.socket.fileno()
    link = str(Path(f"/proc/self/fd/{descriptor}").readlink())

    def exit_with_connection() -> None:
        held = {
            str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
        }
        os._exit(link in held)

    return link.startswith("socket:"), bool(status_of_fork(exit_with_connection))


def test_a_fork_does_not_hold_the_workers_connection(client: ScalableClient) -> None:
    if not run(client, worker_address).startswith(("tcp", "tls")):
        pytest.skip("there is no connection")
    assert run(client, held_connections) == (True, False)


def compute_in_fork() -> int:
    def exit_with_result() -> None:
        with dask.config.set(scheduler="sync"):
            os._exit(delayed(abs)(-7).compute())

    return status_of_fork(exit_with_result)


def test_dask_computes_in_a_fork(client: ScalableClient) -> None:
    assert run(client, compute_in_fork) == 7


def signals_of_program() -> str:
    """Return the masks of a program that is started with code of the user's between fork and exec."""
    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    return subprocess.run(
        command,
        preexec_fn=os.getpid,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_is_started_without_blocked_signals(client: ScalableClient) -> None:
    masks = [int(line.split()[1], 16) for line in run(client, signals_of_program).splitlines()]
    # glibc's posix_spawn, which Python 3.13 uses, leaves its own signals 32 and 33 ignored.
    assert [mask & ~(0b11 << 31) for mask in masks] == [0, 0]


# -- Directories


def leave(removed: bool) -> None:
    own = tempfile.mkdtemp()
    os.chdir(own)
    os.umask(0)
    if removed:
        shutil.rmtree(own)


def place() -> tuple[str, int]:
    umask = os.umask(0o077)
    os.umask(umask)
    return str(Path.cwd()), umask


def coroutine_of_place() -> Callable[[], Any]:
    async def place() -> str:
        return str(Path.cwd())

    return place


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("tag", ["single", "shared"])
def test_a_task_starts_where_the_worker_does(
    client: ScalableClient, tag: str, removed: bool
) -> None:
    here = place()
    for _ in range(4):
        run(client, leave, removed, tag=tag)
        assert run(client, place, tag=tag) == here
    assert run(client, coroutine_of_place(), tag=tag) == here[0]
    assert place() == here


class Moving(WorkerPlugin):
    """Changes the process of its worker, as one that prepares it for a model."""

    name = "moving"

    def __init__(self, to: str) -> None:
        self.to = to

    def setup(self, worker: object) -> None:
        self.before = place(), sys.stdout
        os.chdir(self.to)
        os.umask(0o027)
        sys.stdout = io.StringIO()

    def teardown(self, worker: object) -> None:
        (directory, umask), sys.stdout = self.before
        os.chdir(directory)
        os.umask(umask)


def place_and_output() -> tuple[tuple[str, int], bool]:
    return place(), isinstance(sys.stdout, io.StringIO)


def actors(dask_scheduler: Any) -> list[str]:
    return [ts.key for ws in dask_scheduler.workers.values() for ts in ws.actors]


def test_what_is_done_to_the_worker_itself_stays(
    client: ScalableClient, tmp_path: Path, eventually: Eventually
) -> None:
    if client.session is None or client.session.target_name == "threads":
        pytest.skip("the directory of workers that are threads is the client's")
    here = run(client, place_and_output)
    there = (str(tmp_path.resolve()), 0o027), True
    client.register_plugin(Moving(str(tmp_path)))
    try:
        run(client, leave, True)
        assert run(client, place_and_output) == there
        assert run(client, coroutine_of_place()) == there[0][0]
        # So it is with a worker that joins later.
        session = client.session
        old = session.groups["single"].workers
        gc.collect()  # tracebacks of other tests hold actors, which keep their worker
        eventually(lambda: not client.run_on_scheduler(actors))
        client.retire_workers(names=old)
        run(client, place)
        assert session.groups["single"].workers != old
        assert run(client, place_and_output) == there
    finally:
        client.unregister_worker_plugin("moving")
    assert run(client, place_and_output) == here
    client.run(os.chdir, str(tmp_path))
    try:
        assert run(client, place)[0] == there[0][0]
    finally:
        client.run(os.chdir, here[0][0])
    assert run(client, place_and_output) == here


def test_a_plugin_that_exits_ends_no_worker(client: ScalableClient) -> None:
    class Exiting(WorkerPlugin):
        name = "exiting"

        def setup(self, worker: object) -> None:
            sys.exit("no licence")

    workers = {facts["name"] for facts in client.scheduler_info()["workers"].values()}
    with pytest.raises(RuntimeError, match="the plugin raised SystemExit: no licence"):
        client.register_plugin(Exiting())
    client.unregister_worker_plugin("exiting")
    assert {facts["name"] for facts in client.scheduler_info()["workers"].values()} == workers


def meet(first: bool, meeting: str) -> bool:
    """Change into a directory of one's own beside another task, and return whether one is still there after both."""
    own = str(Path(tempfile.mkdtemp()).resolve())
    os.chdir(own)
    marks = Path(meeting)
    (marks / str(first)).touch()
    deadline = time.monotonic() + LIMIT
    while not (marks / str(not first)).exists():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
    return str(Path.cwd()) == own


def may_unshare() -> bool:
    program = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x200))"
    return (
        subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL).returncode == 0
    )


@pytest.mark.skipif(not may_unshare(), reason="threads share their directory here")
def test_tasks_at_the_same_time_have_their_own_directories(
    client: ScalableClient, tmp_path: Path
) -> None:
    futures = [
        client.submit(meet, first, str(tmp_path), tag="shared", pure=False)
        for first in (True, False)
    ]
    assert client.gather(futures) == [True, True]


def close_output(how: str) -> None:
    if how == "stream":
        sys.stdout.close()
    elif how == "file":
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - stays open
    elif how == "nothing":
        sys.stdout = None
    else:
        os.close(1)
        os.close(2)


@pytest.mark.parametrize("how", ["stream", "descriptor", "file", "nothing"])
def test_a_task_finds_its_output_open(client: ScalableClient, tmp_path: Path, how: str) -> None:
    if client.session is None or client.session.target_name == "threads":
        pytest.skip("the output of workers that are threads is the client's")

    def write(path: Path) -> str:
        # A file that takes the place of the closed descriptor would get what is printed.
        with path.open("w") as file:
            os.write(1, b"to the log\n")
            print(f"to the log, too: {how}", flush=True)
            return f"{file.fileno() > 2} {sys.stdout.closed}"

    run(client, lambda: close_output(how))
    assert run(client, lambda: write(tmp_path / "file")) == "True False"
    assert (tmp_path / "file").read_text() == ""
    assert f"to the log, too: {how}" in "".join(client.session.cluster.logs("single").values())


def redirect(path: str) -> None:
    """Do as programs around models do, which print from compiled code: redirect the descriptors."""
    own = os.open(path, os.O_RDWR | os.O_CREAT)
    for number in (0, 1, 2):
        os.dup2(own, number)
    os.close(own)
    os.write(1, b"mine\n")


def streams() -> list[int]:
    return [os.fstat(number).st_ino for number in (0, 1, 2)]


def test_a_task_finds_the_files_of_its_streams(client: ScalableClient, tmp_path: Path) -> None:
    if client.session is None or client.session.target_name == "threads":
        pytest.skip("the streams of workers that are threads are the client's")
    before = run(client, streams)
    run(client, redirect, str(tmp_path / "file"))
    assert run(client, streams) == before
    run(client, os.write, 1, b"to the log again\n")
    assert (tmp_path / "file").read_text() == "mine\n"
    assert "to the log again" in "".join(client.session.cluster.logs("single").values())
    client.run(redirect, str(tmp_path / "for all"), tag="single")
    try:
        assert run(client, streams) == [(tmp_path / "for all").stat().st_ino] * 3
    finally:
        client.retire_workers(names=client.session.groups["single"].workers)


@pytest.mark.parametrize("how", ["stream", "descriptor"])
def test_a_task_finds_its_input_open(client: ScalableClient, tmp_path: Path, how: str) -> None:
    if client.session is None or client.session.target_name == "threads":
        pytest.skip("the input of workers that are threads is the client's")

    def read(path: Path) -> str:
        with path.open("w") as file:  # would take the place of the closed descriptor
            return f"{file.fileno() > 2} {sys.stdin.read()!r} {os.read(0, 9)!r}"

    run(client, (lambda: sys.stdin.close()) if how == "stream" else (lambda: os.close(0)))
    assert run(client, lambda: read(tmp_path / "file")) == "True '' b''"


def test_a_task_may_replace_its_output_while_another_starts(
    client: ScalableClient, tmp_path: Path
) -> None:
    if client.session is None or client.session.target_name == "threads":
        pytest.skip("the output of workers that are threads is the client's")

    def capture(marks: Path) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as captured:
            (marks / "begun").touch()
            deadline = time.monotonic() + LIMIT
            while not (marks / "other").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            print("mine", end="")
        return captured.getvalue()

    def touch_once_begun(marks: Path) -> None:
        (marks / "other").touch()

    captured = client.submit(capture, tmp_path, tag="shared", pure=False)
    deadline = time.monotonic() + LIMIT
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.submit(touch_once_begun, tmp_path, tag="shared", pure=False).result(timeout=LIMIT)
    assert captured.result(timeout=LIMIT) == "mine"


def test_a_result_that_cannot_be_pickled_is_named_in_one_line(client: ScalableClient) -> None:
    if client.session is None or client.session.target_name == "threads":
        pytest.skip("results of workers that are threads are not pickled")
    with pytest.raises(TypeError) as caught:
        run(client, lambda: (number for number in range(3)))
    assert str(caught.value) == (
        "Could not serialize object of type generator: TypeError: cannot pickle 'generator' object; "
        "let the task return what can be pickled"
    )


def test_a_function_on_the_scheduler_cannot_end_it(client: ScalableClient) -> None:
    with pytest.raises(RuntimeError, match="the function raised SystemExit: 3"):
        client.run_on_scheduler(lambda: sys.exit(3))
    assert run(client, lambda: 1) == 1


class PanicsWhenUnpickled:
    def __reduce__(self) -> Any:
        return raise_it, (PanicException("while it is unpickled"),)


class ArgumentThatExits:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


@pytest.mark.parametrize(
    ("argument", "text"),
    [(PanicsWhenUnpickled(), "PanicException"), (ArgumentThatExits(), "SystemExit")],
)
def test_an_argument_that_cannot_be_unpickled_fails_its_call(
    client: ScalableClient, argument: Any, text: str
) -> None:
    with pytest.raises(RuntimeError, match=f"unpickling the task raised {text}"):
        run(client, lambda _: 1, argument)
    assert run(client, lambda: 1) == 1


def test_a_fork_of_the_clients_process_that_is_not_a_tasks_keeps_its_signal_handlers(
    client: ScalableClient,
) -> None:
    handler = signal.signal(signal.SIGTERM, asyncio.sleep)  # as of Dask's own modules
    reading, writing = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            kept = signal.getsignal(signal.SIGTERM) is asyncio.sleep
            os.write(writing, str((kept, client.status)).encode())
            os._exit(0)
        os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
    # There is no event loop, and Dask's own functions find the client, which says so.
    assert os.read(reading, 100) == b"(True, 'closing')"
    os.close(reading)
    os.close(writing)


ENDING_FORK = """
import os, sys
from pathlib import Path
import dask
from scalable.session import ScalableSession
if __name__ == "__main__":
    dask.config.set({"temporary-directory": os.getcwd()})
    with ScalableSession.from_yaml() as client:
        assert client.submit(abs, -1).result() == 1
        before = sorted(path for path in Path().rglob("*-*") if path.is_dir() or path.suffix == ".dirlock")
        child = os.fork()
        if child == 0:
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print([path.name.partition("-")[0] for path in before if path.exists()])
        print([str(path) for path in before if not path.exists()])
"""


@pytest.mark.parametrize("processes", [True, False])
def test_the_end_of_a_fork_of_the_clients_process_removes_nothing(
    tmp_path: Path, processes: bool
) -> None:
    (tmp_path / "scalable.yaml").write_text(
        "version: 1\nproject: {name: x}\ncomponents: {gcam: {}}\n"
        f"targets: {{local: {{provider: local, processes: {str(processes).lower()}}}}}\n"
    )
    (tmp_path / "workflow.py").write_text(ENDING_FORK)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "workflow.py"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    there, removed = done.stdout.splitlines()
    assert removed == "[]"
    assert "scheduler" in there
    assert "worker" in there
    assert (done.returncode, done.stderr) == (0, "")
