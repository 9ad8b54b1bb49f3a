"""The job script that starts a worker, or several, and the environment variables of the job.

Pure functions. Every value in the script is quoted by `shlex`; the lines of a prologue are inserted unchanged.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from scalable.providers.containers import (
    RUNTIMES,
    container_argv,
    container_environment,
    runs_as_child,
    user_flags,
)
from scalable.providers.slurm.labels import job_name, label_line
from scalable.providers.slurm.paths import expanded, has_variables
from scalable.providers.slurm.presence import FILE
from scalable.providers.slurm.request import JobRequest
from scalable.providers.tls import tls_arguments
from scalable.providers.worker import (
    forking_command,
    server_command,
    thread_environment,
    worker_arguments,
)

__all__ = ["job_environment", "job_script"]

# Runs a worker, given as its arguments, in a container of Podman or Docker. Slurm ends the runtime's client program,
# by SIGKILL if need be, and does not know the container. But the client holds the other end of the container's standard
# input, to which nothing is ever written: when that closes, the worker is killed, however busy it is.
_WITH_CLIENT = """\
exec 3<&0 </dev/null
{ read -r _ <&3; kill -KILL $$; } &
exec "$@" 3<&-"""

# The client's own standard input: a pipe opened for reading and writing, which closes only when its holders exit.
_PIPE = "<> <(:)"

# Apptainer and Singularity pass on the job's environment and mount the home directory. Neither must add modules of
# another Python to the image's. Python treats an empty variable as unset.
_ONLY_THE_IMAGE = {"PYTHONPATH": "", "PYTHONHOME": "", "PYTHONNOUSERSITE": "1"}


def job_script(
    request: JobRequest, scheduler_address: str, workers: int = 1, *, run: str, comment: str
) -> str:
    r"""Return the script that each element of the array runs.

    Parameters
    ----------
    request : JobRequest
        One of the workers.
    scheduler_address : str
        The scheduler's address.
    workers : int, optional
        How many workers the array begins with, where a job has room for several.
    run : str
        The run's id.
    comment : str
        The comment of the jobs, which a site may rewrite where Slurm has it.

    Examples
    --------
    >>> request = JobRequest("gcam", "/logs", modules=("gcc/13",), prologue=("ulimit -s unlimited",))
    >>> print(job_script(request, "tls://10.0.0.1:8786", run="r1", comment="scalable run=r1"))
    ... # doctest: +ELLIPSIS
    #!/bin/bash
    # scalable run=r1
    # A job that starts after its client has died ends, and so do those that still wait. The client touches this file.
    ...
    # A module or a line that fails must not start a worker in the wrong environment.
    set -e
    : "${OMP_NUM_THREADS?sbatch of this site has not passed on the environment}"
    module load gcc/13
    ulimit -s unlimited
    exec python3 -P -u -X faulthandler -c ... --name gcam-"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"
    <BLANKLINE>
    """
    job = '"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"'
    scratch = []
    if has_variables(request.local_directory):
        scratch = [f"scratch={expanded(request.local_directory)}"]
        request = replace(request, local_directory=_SCRATCH)
    arguments = _quoted(_worker_arguments(request, scheduler_address))
    python = "python3" if request.image else request.python
    if request.room == 1:
        command = _quoted(server_command(python, "worker"))
        worker = f"{command} {arguments} --name {shlex.quote(f'{request.tag}-')}{job}"
    else:
        command = _quoted(forking_command(python, _settings(request, workers)))
        worker = f"{command} {job} {shlex.quote(request.tag)} {arguments}"
    lines = [
        request.shebang,
        label_line(comment),
        _end_without_client(request.log_directory, scheduler_address, job_name(run)),
        "# A module or a line that fails must not start a worker in the wrong environment.",
        "set -e",
        f': "${{{_SENTINEL[request.runtime]}?sbatch of this site has not passed on the environment}}"',
        *(f"module load {shlex.quote(module)}" for module in request.modules),
        *request.prologue,
        *scratch,
        *_run(request, worker),
    ]
    return "\n".join(lines) + "\n"


def _end_without_client(directory: str, scheduler_address: str, name: str) -> str:
    """Return lines that end a job whose client has died, and the jobs of the run that still wait."""
    host, _, port = scheduler_address.rpartition("://")[2].rpartition(":")
    address = " ".join(shlex.quote(part) for part in (host.strip("[]"), port))
    return f"""\
# A job that starts after its client has died ends, and so do those that still wait. The client touches this file.
client={shlex.quote(f"{directory}/{FILE}")}
for _ in $(seq 18); do
    ! timeout 10 bash -c '3<>"/dev/tcp/$0/$1"' {address} 2>/dev/null || break
    if [ -z "$(find "$client" -mmin -2 2>/dev/null)" ]; then
        echo 'The client of this run has died: nothing listens at' {address} >&2
        unset "${{!SCANCEL_@}}"  # a user's options for what they type
        # Not by $SLURM_JOB_NAME: a site may give all jobs of a user one name.
        scancel --quiet --user="$(id -u)" --name={shlex.quote(name)} --state=PENDING
        scancel --quiet --state=PENDING "$SLURM_ARRAY_JOB_ID"
        exit 1
    fi
    sleep 10
done"""


# A variable that each job has, unless a site's own sbatch adds --export=NONE.
_SENTINEL = {
    runtime: next(iter(container_environment(runtime, {"OMP_NUM_THREADS": ""})))
    for runtime in ("none", *RUNTIMES)
}

_SCRATCH = "/<scratch>"
"""Stands in arguments for a directory whose path only the node knows; the script has it in the variable ``scratch``."""


def _quoted(argv: Sequence[str]) -> str:
    """Return arguments, quoted for a shell, with the scratch directory in place of what stands for it."""
    return " ".join(
        '"$scratch"'.join(shlex.quote(part) if part else "" for part in argument.split(_SCRATCH))
        if _SCRATCH in argument
        else shlex.quote(argument)
        for argument in argv
    )


def _run(request: JobRequest, worker: str) -> list[str]:
    """Return the lines that run a worker in its container, if it has one; `worker` is quoted for a shell."""
    if request.image is None:
        return [f"exec {worker}"]
    container = _container(request, request.image)
    if runs_as_child(request.runtime):
        return [f"exec {_quoted(container)} {worker}"]
    client, run, *options = container
    below = shlex.join(["sh", "-c", _WITH_CLIENT, "sh"])
    return [
        *_identity(request),
        "# The container ends with its client, the only part of it that Slurm can end.",
        f'exec {client} {run} "${{identity[@]}}" {_quoted(options)} {below} {worker} {_PIPE}',
    ]


def _identity(request: JobRequest) -> list[str]:
    podman = request.runtime == "podman"
    own = user_flags(keep_id=podman, home=request.local_directory)
    lines = [
        "# As the job's user, the worker can read its mounts, and owns what it writes.",
        'identity=(--user="$(id -u):$(id -g)")',
        # In an image, only root has a home directory.
        f'[ "$(id -u)" = 0 ] || identity+=({_quoted(own)})',
    ]
    if podman:
        lines += [
            "# Inherited from the login node, and often missing on this one; without it, Podman uses another.",
            '[ -w "${XDG_RUNTIME_DIR-}" ] || unset XDG_RUNTIME_DIR',
        ]
    return lines


def _settings(request: JobRequest, workers: int) -> dict[str, object]:
    """Return what the program needs to know that runs the workers of one job."""
    return {
        "workers": workers,
        "room": request.room,
        "cpus": request.cpus,
        "gpus": request.gpus,
        "memory": request.memory,
        "logs": request.log_directory,
        "files": request.files,
    }


def _worker_arguments(request: JobRequest, scheduler_address: str) -> list[str]:
    extra: list[str] = []
    if request.interface:
        extra += ["--interface", request.interface]
    if request.worker_ports:
        extra += ["--worker-port", request.worker_ports]
    if request.tls:
        extra += tls_arguments(request.tls)
    extra += request.worker_arguments
    return worker_arguments(
        scheduler_address,
        tag=request.tag,
        slots=request.slots,
        memory=request.memory,
        directory=request.local_directory,
        death_timeout=request.death_timeout,
        preload=request.preload,
        extra=extra,
    )


def _container(request: JobRequest, image: str) -> list[str]:
    """Return the command line, up to the worker's own, that runs the worker in its image.

    Examples
    --------
    >>> " ".join(_container(JobRequest("a", "/l", runtime="apptainer", mounts={"/data": "/in"}), "a.sif"))
    'apptainer exec --no-eval --bind /data:/in --bind /tmp:/tmp a.sif'
    >>> " ".join(_container(JobRequest("a", "/l", runtime="podman", env={"K": "v"}), "a:1"))
    ... # doctest: +ELLIPSIS
    'podman run --rm --interactive ... --env K --mount type=bind,source=/tmp,target=/tmp a:1'
    """
    mounts = dict(request.mounts)
    logs = [request.log_directory] if request.room > 1 else []
    for path in (request.local_directory, *_tls_directory(request), *logs):
        mounts.setdefault(path, path)
    return container_argv(
        request.runtime,
        image,
        mounts=mounts,
        variables=_variables(request),
        gpus=request.gpus,
        shm_size=None if request.memory is None else request.room * request.memory,
        flags=[] if runs_as_child(request.runtime) else _daemon_flags(request),
    )


def _daemon_flags(request: JobRequest) -> list[str]:
    """Return the options of a Podman or Docker container that only jobs need."""
    return [
        "--rm",
        "--interactive",
        # Tells the user of a node which run a container belongs to.
        f"--label=scalable.logs={request.log_directory}",
    ]


def _tls_directory(request: JobRequest) -> list[str]:
    return [request.tls.ca_file.rpartition("/")[0]] if request.tls else []


def job_environment(request: JobRequest) -> dict[str, str]:
    """Return the variables that ``sbatch`` gets in addition to the inherited environment.

    Examples
    --------
    >>> job_environment(JobRequest("gcam", "/logs", cpus=8, env={"OMP_NUM_THREADS": "1"}))["OMP_NUM_THREADS"]
    '1'
    >>> gcam = JobRequest("gcam", "/logs", image="a.sif", runtime="apptainer", env={"PATH": "/opt/gcam/bin:/usr/bin"})
    >>> job_environment(gcam)["APPTAINERENV_PATH"]
    '/opt/gcam/bin:/usr/bin'
    """
    variables = _variables(request)
    if request.image is None or not runs_as_child(request.runtime):
        return variables
    return container_environment(request.runtime, {**_ONLY_THE_IMAGE, **variables})


def _variables(request: JobRequest) -> dict[str, str]:
    return {**thread_environment(request.cpus, request.slots), **request.env}
