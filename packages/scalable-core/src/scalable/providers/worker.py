"""How one Dask worker is started, wherever it runs: pure functions from a component to words and variables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["thread_environment", "worker_arguments"]

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
    """Give the cpus of a worker to the models that run in it, not to Dask, whose threads are task slots.

    Parameters
    ----------
    cpus : int
        Cores of the worker.
    slots : int
        Tasks that share them: each has its part, one core at least. With all of them for each, libraries would start
        more threads than there are cores, and be the slower for it.

    Examples
    --------
    >>> thread_environment(8)["OMP_NUM_THREADS"], thread_environment(8, slots=4)["OMP_NUM_THREADS"]
    ('8', '2')
    """
    return dict.fromkeys(_THREAD_VARIABLES, str(max(1, cpus // slots)))


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
    """Write the arguments of ``dask worker`` for one worker of a group; its ``--name`` is left to the backend.

    Parameters
    ----------
    scheduler_address : str
        Where the scheduler is.
    tag : str
        The group: the Dask resource that the worker carries.
    slots : int
        Tasks at a time: Dask's threads, and the amount of the resource.
    memory : int or None
        Bytes that the worker may use; None for no limit.
    directory : str
        Where the worker keeps what does not fit into memory.
    death_timeout : int
        Seconds without a scheduler after which the worker ends by itself.
    preload : str, optional
        A script or module that the worker runs first.
    extra : sequence of str
        More arguments, such as where to listen.

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
        # The default is all interfaces, open to whoever reaches the machine.
        *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
        # A worker that dies is replaced by the engine under a new name, not by a nanny under the old one.
        *("--no-nanny", "--nworkers", "1"),
        *("--death-timeout", str(death_timeout)),
        *extra,
    ]
    return [*arguments, "--preload", preload] if preload else arguments
