"""A component as a Slurm job: the words of ``sbatch``, the script on its standard input, the environment.

Pure functions. Every value that a shell reads is quoted by `shlex`; what Slurm itself would misread is refused when
options are validated (`scalable.providers.slurm.options`).
"""

from __future__ import annotations

import shlex

from scalable.providers.containers import container_words, runs_as_child
from scalable.providers.slurm.request import JobRequest
from scalable.providers.worker import thread_environment, worker_arguments

__all__ = ["job_environment", "job_script"]

# Runs a worker, given as its arguments, in a container of Podman or Docker. Slurm ends the runtime's client program,
# in the end by SIGKILL, and knows nothing of the container. But the client has the other end of the container's
# standard input, to which nobody writes: when that ends, so does the worker, however busy it is.
_WITH_CLIENT = """\
exec 3<&0 </dev/null
{ read -r _ <&3; kill -KILL $$; } &
exec "$@" 3<&-"""

# What the client gets as its own standard input: a pipe opened both ways, which ends only with whoever has it open.
_PIPE = "<> <(:)"

# Apptainer and Singularity hand over what the job inherits, and show the home directory: neither must bring modules of
# another Python into the image's. To Python, an empty variable is as none.
_ONLY_THE_IMAGE = {"PYTHONPATH": "", "PYTHONHOME": "", "PYTHONNOUSERSITE": "1"}


def job_script(request: JobRequest, scheduler_address: str) -> str:
    r"""Write the script that each element of the array runs.

    Examples
    --------
    >>> request = JobRequest("gcam", "/logs", modules=("gcc/13",), prologue=("ulimit -s unlimited",))
    >>> print(job_script(request, "tls://10.0.0.1:8786"))  # doctest: +ELLIPSIS
    #!/bin/bash
    # A module or a line that fails must not start a worker in the wrong environment.
    set -e
    module load gcc/13
    ulimit -s unlimited
    exec python3 -u -m distributed.cli.dask_worker ... --name gcam-"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"
    <BLANKLINE>
    """
    name = shlex.quote(f"{request.tag}-") + '"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"'
    worker = f"{shlex.join(_worker_argv(request, scheduler_address))} --name {name}"
    lines = [
        "#!/bin/bash",
        "# A module or a line that fails must not start a worker in the wrong environment.",
        "set -e",
        *(f"module load {shlex.quote(module)}" for module in request.modules),
        *request.prologue,
        *_run(request, worker),
    ]
    return "\n".join(lines) + "\n"


def _run(request: JobRequest, worker: str) -> list[str]:
    """Write the lines that run a worker where its component wants it; `worker` is as a shell reads it."""
    if request.image is None:
        return [f"exec {worker}"]
    container = _container(request, request.image)
    if runs_as_child(request.runtime):
        return [f"exec {shlex.join(container)} {worker}"]
    client, run, *options = container
    below = shlex.join(["sh", "-c", _WITH_CLIENT, "sh"])
    return [
        *_identity(request),
        "# The container ends with its client, which is all of it that Slurm can end.",
        f'exec {client} {run} "${{identity[@]}}" {shlex.join(options)} {below} {worker} {_PIPE}',
    ]


def _identity(request: JobRequest) -> list[str]:
    podman = request.runtime == "podman"
    own = [*(["--userns=keep-id"] if podman else []), f"--env=HOME={request.local_directory}"]
    lines = [
        "# As the user of the job, the worker can read what is mounted, and what it writes is theirs.",
        'identity=(--user="$(id -u):$(id -g)")',
        # An image knows a home for root alone.
        f'[ "$(id -u)" = 0 ] || identity+=({shlex.join(own)})',
    ]
    if podman:
        lines += [
            "# Inherited from the login node, and often not on this one; Podman then has another place.",
            '[ -w "${XDG_RUNTIME_DIR-}" ] || unset XDG_RUNTIME_DIR',
        ]
    return lines


def _worker_argv(request: JobRequest, scheduler_address: str) -> list[str]:
    extra: list[str] = []
    if request.interface:
        extra += ["--interface", request.interface]
    if request.tls:
        extra += [
            "--tls-ca-file",
            request.tls.ca_file,
            "--tls-cert",
            request.tls.cert,
            "--tls-key",
            request.tls.key,
        ]
    program = (
        ["dask", "worker"]
        if request.image
        else [request.python, "-u", "-m", "distributed.cli.dask_worker"]
    )
    return [
        *program,
        *worker_arguments(
            scheduler_address,
            tag=request.tag,
            slots=request.slots,
            memory=request.memory,
            directory=request.local_directory,
            death_timeout=request.death_timeout,
            preload=request.preload,
            extra=extra,
        ),
    ]


def _container(request: JobRequest, image: str) -> list[str]:
    """Write the words before the worker's own that put it into its image.

    Examples
    --------
    >>> " ".join(_container(JobRequest("a", "/l", runtime="apptainer", mounts={"/data": "/in"}), "a.sif"))
    'apptainer exec --no-eval --bind /data:/in --bind /tmp:/tmp a.sif'
    >>> " ".join(_container(JobRequest("a", "/l", runtime="podman", env={"K": "v"}), "a:1"))
    ... # doctest: +ELLIPSIS
    'podman run --rm --init --interactive ... --env K --mount type=bind,source=/tmp,target=/tmp a:1'
    """
    mounts = dict(request.mounts)
    for path in (request.local_directory, *_tls_directory(request)):
        mounts.setdefault(path, path)
    return container_words(
        request.runtime,
        image,
        mounts=mounts,
        variables=_variables(request),
        gpus=request.gpus,
        # --no-eval, or a shell would read the values (apptainer(1), "Environment variables").
        flags=["--no-eval"] if runs_as_child(request.runtime) else _conduct(request),
    )


def _conduct(request: JobRequest) -> list[str]:
    """Say how a container of Podman or Docker is to behave."""
    return [
        "--rm",
        # Not the worker but a small init is process 1, for whom the kernel ignores signals that it does not handle.
        "--init",
        "--interactive",
        # What it writes goes to the job's log.
        "--log-driver=none",
        # Whose it is, for who finds it on a node.
        f"--label=scalable.logs={request.log_directory}",
        # SELinux would keep it from everything that is mounted (podman-run(1), "Labeling Volume Mounts").
        "--security-opt=label=disable",
        # By default 64 MiB, in which MPI's ranks cannot talk.
        *([f"--shm-size={request.memory}"] if request.memory else []),
    ]


def _tls_directory(request: JobRequest) -> list[str]:
    return [request.tls.ca_file.rpartition("/")[0]] if request.tls else []


def job_environment(request: JobRequest) -> dict[str, str]:
    """Say what ``sbatch`` is to find in its environment on top of the caller's own.

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
    # So they are the container's alone: neither Slurm nor the runtime itself heeds them.
    prefix = f"{request.runtime.upper()}ENV_"
    return {prefix + name: value for name, value in {**_ONLY_THE_IMAGE, **variables}.items()}


def _variables(request: JobRequest) -> dict[str, str]:
    # In a container, nobody says -u to the interpreter.
    unbuffered = {"PYTHONUNBUFFERED": "1"} if request.image else {}
    return {**unbuffered, **thread_environment(request.cpus, request.slots), **request.env}
