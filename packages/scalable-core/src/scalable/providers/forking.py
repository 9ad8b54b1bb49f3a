"""The program that runs all workers of one job, forked from one interpreter that has imported Dask once.

`scalable.providers.worker.forking_command` passes it as text, after that of `scalable.providers.entry`. It runs where
none of our packages may be: the standard library and distributed only.

Two files of the job connect it with the client, on the file system that both see. To ``<job>.asked``, the client
appends the numbers of workers that are to start (``+3``) and to end (``-3``). To ``<job>.ended``, the program appends a
line for each worker that has ended: its number, its exit status or minus its signal, the seconds that it lived, and
``exited``, ``memory`` or ``stopped``.
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator

from scalable.providers.entry import NoCollection, leave_out_current_directory, main

TICK = 1.0
"""Seconds between two looks at what is asked, and at the memory of workers."""

GRACE = 10.0
"""Seconds that a worker has for its end before it is killed."""

GPU_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)


class Worker:
    """A worker that runs: its process, its share of the node, since when, and until when it may take to end."""

    def __init__(self, pid: int, place: int) -> None:
        self.pid = pid
        self.place = place
        self.since = time.monotonic()
        self.kill_at = float("inf")
        self.why = "exited"


class Workers:
    """The workers of this job.

    Parameters
    ----------
    job : str
        Its name, which ends in its number among those that were launched together: ``4711_0``.
    settings : dict
        As for `scalable.providers.worker.forking_command`.
    """

    def __init__(self, job: str, settings: dict[str, object]) -> None:
        number = {key: int(str(settings[key])) for key in ("workers", "room", "cpus", "gpus")}
        self.job = job
        self.room, self.cpus, self.gpus = number["room"], number["cpus"], number["gpus"]
        self.memory = int(str(settings["memory"] or 0))
        self.logs = str(settings["logs"])
        self.files = str(settings["files"])
        first = number["workers"] - self.room * int(job.rpartition("_")[2])
        self.waiting = list(range(min(self.room, first)))
        self.known = set(self.waiting)
        self.stopped: set[int] = set()
        self.running: dict[int, Worker] = {}
        self.any_well = False
        self.ending = False
        self.oom_kills = count_oom_kills()

    def supervise(self) -> int | None:
        """Keep the workers that are wanted; return None once all have ended, and in a new worker, its number."""
        signals = {signal.SIGCHLD, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        while True:
            self.note_ends()
            if not self.ending:
                self.read_asked()
                number = self.start_waiting()
                if number is not None:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
                    return number
            self.end_those_above_memory()
            self.end_those_not_wanted()
            if not self.running and (self.ending or not self.waiting):
                return None
            received = signal.sigtimedwait(signals, TICK)
            if received is not None and received.si_signo == signal.SIGTERM:
                # Of the batch system, which ends the whole job, and says why.
                self.ending = True

    def start_waiting(self) -> int | None:
        """Start workers on the places that are free; return a number in the new process of that worker."""
        taken = {worker.place for worker in self.running.values()}
        for place in range(self.room):
            if place in taken or not self.waiting:
                continue
            number = self.waiting.pop(0)
            with warnings.catch_warnings():
                # Python warns of threads that may hold locks; there are but those of numpy's BLAS, which allows for it.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                self.take_place(number, place)
                return number
            self.running[number] = Worker(pid, place)
        return None

    def take_place(self, number: int, place: int) -> None:
        """Give this process the log, the cores and the GPUs of a worker."""
        path = f"{self.logs}/{self.job}.{number}.log"
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        cores = sorted(os.sched_getaffinity(0))
        if self.room * self.cpus <= len(cores):
            os.sched_setaffinity(0, cores[place * self.cpus : (place + 1) * self.cpus])
        for variable in GPU_VARIABLES if self.gpus else ():
            devices = os.environ.get(variable, "").split(",")
            if len(devices) >= self.room * self.gpus:
                own = devices[place * self.gpus : (place + 1) * self.gpus]
                os.environ[variable] = ",".join(own)
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed()  # or all workers would draw the same numbers

    def read_asked(self) -> None:
        """Read which workers are to start and to end."""
        text = ""
        # Created here if need be: that it does not exist, a node may believe for a minute.
        with report_errors(), open(f"{self.files}/{self.job}.asked", "a+") as file:
            file.seek(0)
            text = file.read()
        for sign, digits in re.findall(r"^([+-])(\d+)\n", text, re.MULTILINE):
            number = int(digits)
            if sign == "+" and number not in self.known:
                self.known.add(number)
                self.waiting.append(number)
            elif sign == "-" and number not in self.stopped:
                self.known.add(number)
                self.stopped.add(number)
                if number in self.waiting:
                    self.waiting.remove(number)
                    self.write_end(number, 0, 0.0, "stopped")

    def end_those_not_wanted(self) -> None:
        """Terminate workers, and kill those that do not end."""
        now = time.monotonic()
        for number, worker in self.running.items():
            if worker.kill_at <= now:
                os.kill(worker.pid, signal.SIGKILL)
            elif worker.kill_at == float("inf") and (number in self.stopped or self.ending):
                os.kill(worker.pid, signal.SIGTERM)
                worker.kill_at = now + GRACE
                worker.why = "stopped"

    def end_those_above_memory(self) -> None:
        """Kill the workers that, with the processes that they have started, use more memory than one may."""
        if not self.memory:
            return
        processes = {worker.pid: worker for worker in self.running.values()}
        for pid, most in memory_of_trees(set(processes)).items():
            if most <= self.memory:
                continue
            if memory_of_trees({pid}, shared_once=True).get(pid, 0) > self.memory:
                processes[pid].why = "memory"
                os.kill(pid, signal.SIGKILL)

    def note_ends(self) -> None:
        """Write down which workers have ended, and how."""
        by_pid = {worker.pid: number for number, worker in self.running.items()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = by_pid.get(pid)
            if number is None:
                continue  # a process that a worker has left behind
            worker, code = self.running.pop(number), os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL and worker.why == "exited":
                kills = count_oom_kills()
                if kills > self.oom_kills:
                    worker.why = "memory"
                self.oom_kills = kills
            self.any_well |= code == 0 or worker.why == "stopped"
            if not self.ending:
                self.write_end(number, code, time.monotonic() - worker.since, worker.why)

    def write_end(self, number: int, code: int, seconds: float, why: str) -> None:
        """Report to the client that a worker has ended."""
        with report_errors(), open(f"{self.files}/{self.job}.ended", "a") as file:
            file.write(f"{number} {code} {seconds:.0f} {why}\n")


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print an error of a file system, which must not end the workers."""
    try:
        yield
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)


def memory_of_trees(roots: set[int], *, shared_once: bool = False) -> dict[int, int]:
    """Return the resident memory of each of these processes and what it has started, in bytes.

    What several processes share, as after a fork, counts for each of them, or once, which takes longer to find out.
    """
    parents, resident = {}, {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # After the name of the program, which may hold anything: state, parent, …
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(name)], resident[int(name)] = int(fields[1]), int(fields[21])
    total = dict.fromkeys(roots & parents.keys(), 0)
    for pid, pages in resident.items():
        root: int | None = pid
        while root is not None and root not in total:
            root = parents.get(root)
        if root is not None:
            used = pages * os.sysconf("SC_PAGE_SIZE")
            total[root] += own_share(pid, used) if shared_once else used
    return total


def own_share(pid: int, otherwise: int) -> int:
    """Return the memory of a process, in bytes, with its share of what it shares."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        if found := re.search(r"^Pss: *(\d+) kB", file.read(), re.MULTILINE):
            return int(found[1]) * 1024
    return otherwise


def count_oom_kills() -> int:
    """Return how many processes of this job the kernel has killed for want of memory; 0 where that is not known."""
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file.read().splitlines():
            _, kind, path = line.split(":", 2)
            if kind in ("", "memory"):
                counts = "memory.oom_control" if kind else "memory.events"
                with (
                    contextlib.suppress(OSError),
                    open(f"/sys/fs/cgroup/{kind}{path}/{counts}") as file,
                ):
                    if found := re.search(r"^oom_kill (\d+)", file.read(), re.MULTILINE):
                        return int(found[1])
    return 0


def import_dask() -> None:
    """Import what a worker does, as `main` does: files of the current directory replace no module of Dask's."""
    last = leave_out_current_directory()
    with NoCollection():
        import distributed.cli.dask_worker
        import distributed.comm.tcp
        import distributed.preloading
        import distributed.worker  # noqa: F401
    sys.path += last


def fork_workers() -> None:
    """Run the workers of this job. Arguments: settings, the job, its tag, and the arguments of each worker."""
    settings, job, tag, *words = sys.argv[1:]
    import_dask()
    workers = Workers(job, json.loads(settings))
    number = workers.supervise()
    if number is None:
        sys.exit(0 if workers.any_well else 1)
    sys.argv = [sys.argv[0], "worker", *words, "--name", f"{tag}-{job}.{number}"]
    main()
