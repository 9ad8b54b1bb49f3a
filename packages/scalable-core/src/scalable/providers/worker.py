"""Command line and environment of one Dask worker, wherever it runs."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Literal

__all__ = [
    "forking_command",
    "program_text",
    "python_command",
    "server_command",
    "thread_environment",
    "watched_worker",
    "worker_arguments",
]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "JULIA_NUM_THREADS",
)


def thread_environment(cpus: int, slots: int = 1) -> dict[str, str]:
    """Return the variables that give a worker's cpus to the models in it; Dask's own threads are task slots.

    Parameters
    ----------
    cpus : int
        Cores of the worker.
    slots : int
        Tasks that share the cores, at least one core each. If each had all of them, libraries would start more
        threads than there are cores, which is slower.

    Examples
    --------
    >>> thread_environment(8)["OMP_NUM_THREADS"], thread_environment(8, slots=4)["OMP_NUM_THREADS"]
    ('8', '2')
    """
    return dict.fromkeys(_THREAD_VARIABLES, str(max(1, cpus // slots)))


def server_command(python: str, server: Literal["worker", "scheduler"]) -> list[str]:
    """Return the command that starts Dask's worker or scheduler, up to its arguments.

    It does as ``dask worker`` and ``dask scheduler`` do, except that files of the current directory replace no module,
    whatever they are called, and that a preload that fails ends the process with its traceback. Output is not
    buffered, and a crash in compiled code leaves a Python traceback, so that the end of the log explains a failure.

    Parameters
    ----------
    python : str
        The Python that runs it, 3.11 or later, by its path or by its name on the ``PATH`` of the machine or the image.
        It needs distributed and nothing of Scalable.
    server : {"worker", "scheduler"}
        What is started.

    Examples
    --------
    >>> command = server_command("python3", "worker")
    >>> command[:6], command[7:]
    (['python3', '-P', '-u', '-X', 'faulthandler', '-c'], ['worker'])
    """
    program = program_text("scalable.providers", "entry.py")
    return [*python_command(python), f"{program}\nmain()", server]


def forking_command(python: str, settings: Mapping[str, object]) -> list[str]:
    """Return the command that runs all workers of one job, forked from one process that has imported Dask once.

    Its arguments follow: the job's name, which ends in ``_`` and its number among the jobs that were launched together;
    the tag of its workers; and the arguments of each worker, without its name, which is ``<tag>-<job>.<number>``.

    Parameters
    ----------
    python : str
        As for `server_command`.
    settings : mapping
        ``workers`` that all those jobs begin with, and ``room``, how many this one runs at a time; ``cpus``, ``gpus``
        and ``memory`` (bytes or None) of one worker; ``logs`` and ``files``, the directories for logs,
        ``<job>.<number>.log``, and for the files by which the program is told what to do and tells what has ended.
    """
    entry, program = (
        program_text("scalable.providers", name) for name in ("entry.py", "forking.py")
    )
    text = f"{entry}\n{program}\nfork_workers()"
    return [*python_command(python), text, json.dumps(settings)]


def python_command(python: str) -> list[str]:
    """Return the command that runs a program of ours, which follows as text, followed by its arguments."""
    # Processes that a task starts by multiprocessing inherit -P; a variable would reach all others, too.
    return [python, "-P", "-u", "-X", "faulthandler", "-c"]


def watched_worker(
    port: int, *, silence: int, through_notice: bool = False, every: float = 60.0
) -> str:
    """Return a program that runs a worker, and ends it once it is left alone and does not end by itself.

    A Dask worker that has lost its scheduler ends after a minute, except one that is frozen, or whose task holds
    Python's global lock. If the client is dead, too, nobody else would end its machine.

    On spare capacity, containers get SIGTERM with the notice of their end, and a Dask worker that gets it leaves with
    its tasks and results. The engine sees the same notice and drains the worker, which has the time until the end for
    that. One that has not joined has nothing to drain, and would keep a task or machine that is no longer wanted: it
    gets the signal.

    Parameters
    ----------
    port : int
        The scheduler's port; whoever has a connection to it has joined.
    silence : int
        Seconds without such a connection after which the worker is killed.
    through_notice : bool
        Whether a worker that has joined goes on after SIGTERM.
    every : float
        Seconds between two looks.

    Returns
    -------
    str
        The source of the program. It runs what is called ``command`` before it, a list, and ends as that does.

    Examples
    --------
    >>> "raddr.port == 8786" in watched_worker(8786, silence=900)
    True
    """
    return f"""\
import psutil, signal, subprocess, sys, time
worker = subprocess.Popen(command)
# Before psutil 6, which an image may have, it has another name.
connections = getattr(psutil.Process, "net_connections", None) or psutil.Process.connections
def has_joined():
    try:
        family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        found = [each for process in family for each in connections(process, "tcp")]
    except psutil.Error:
        return None  # it cannot be seen
    return any(each.status == "ESTABLISHED" and each.raddr.port == {port} for each in found)
def end(*_):
    if not ({through_notice} and has_joined()):
        worker.terminate()
signal.signal(signal.SIGTERM, end)
status, joined = None, time.monotonic()
while status is None:
    try:
        status = worker.wait({every})
    except subprocess.TimeoutExpired:
        if has_joined() is not False:
            joined = time.monotonic()
        elif time.monotonic() - joined > {silence}:
            print("killed: the worker lost the scheduler {silence} s ago, and has not ended", file=sys.stderr)
            worker.kill()
sys.exit(status if status >= 0 else 128 - status)
"""


@cache
def program_text(package: str, file: str) -> str:
    """Return a module of ours as text that runs where none of our packages may be.

    Without comments, docstrings, imports of our own modules, and what it does when it is run as a script.
    """
    tree = ast.parse(resources.files(package).joinpath(file).read_text("utf-8"))
    tree.body = [node for node in tree.body if not _is_left_out(node)]
    documented = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
    ]
    for node in documented:
        if ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.unparse(tree)


def _is_left_out(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").startswith("scalable.")
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def worker_arguments(
    scheduler_address: str,
    *,
    tag: str,
    slots: int,
    memory: int | None,
    directory: str,
    death_timeout: int = 60,
    preload: str | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the arguments of ``dask worker`` for one worker of a group; the backend adds ``--name``.

    They follow `server_command`.

    Parameters
    ----------
    scheduler_address : str
        Address of the scheduler.
    tag : str
        Tag of the group: the Dask resource that the worker carries.
    slots : int
        Tasks at a time: Dask's threads, and the amount of the resource.
    memory : int or None
        Bytes that the worker may use; None for no limit.
    directory : str
        Directory for data that does not fit into memory.
    death_timeout : int
        Seconds without a scheduler after which the worker exits.
    preload : str, optional
        Script or module that the worker runs first.
    extra : sequence of str
        Further arguments, such as the address to listen on.

    Examples
    --------
    >>> " ".join(worker_arguments("tcp://10.0.0.1:8786", tag="gcam", slots=2, memory=8 * 10**9, directory="/tmp"))
    ... # doctest: +NORMALIZE_WHITESPACE
    'tcp://10.0.0.1:8786 --nthreads 2 --resources gcam=2 --memory-limit 8000000000 --local-directory /tmp
     --no-dashboard --dashboard-address 127.0.0.1:0 --no-nanny --nworkers 1 --death-timeout 60'
    """
    arguments = [
        scheduler_address,
        *("--nthreads", str(slots)),
        *("--resources", f"{tag}={slots}"),
        *("--memory-limit", str(memory or 0)),  # 0: no limit
        *("--local-directory", directory),
        # The default is all interfaces, open to everything that reaches the machine.
        *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
        # The controller replaces a lost worker under a new name; a nanny would restart it under the old one.
        *("--no-nanny", "--nworkers", "1"),
        *("--death-timeout", str(death_timeout)),
        *extra,
    ]
    return [*arguments, "--preload", preload] if preload else arguments
