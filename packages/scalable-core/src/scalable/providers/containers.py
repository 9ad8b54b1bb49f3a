"""The command that runs a Dask worker in a container image, and checks of what it needs. Pure functions.

There are two families of runtimes. Podman and Docker run a container beside their caller, which runs a client program.
Apptainer and Singularity run a program as a child of their caller, in the file system of an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.paths import expand_home

if TYPE_CHECKING:
    from scalable.manifest.issues import ValidationIssue
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.base import DeploymentSpec

__all__ = [
    "RUNTIMES",
    "check_container",
    "chosen_runtime",
    "container_argv",
    "container_environment",
    "host_paths",
    "image_reference",
    "is_read_by_client",
    "mounts_and_preload",
    "runs_as_child",
    "unsafe_mount_characters",
    "user_flags",
]

RUNTIMES = ("podman", "docker", "apptainer", "singularity")
"""The supported runtimes, in order of preference."""

# With a tag or a digest, or on a host: `gcam:7`, `gcam@sha256:…`, `ghcr.io/jgcri/gcam`, `localhost/gcam`.
_REFERENCE = re.compile(r"(.*/)?[^/]+[:@][^/]+|(localhost|[^/]+[.:][^/]+)/.+")

# Paths, and the URIs that apptainer(1) lists.
_PATH_OR_URI = re.compile(
    r"[./].*|.*\.(sif|simg|sqfs|img)|.*://.*|(docker-archive|docker-daemon|oci|oci-archive):.*",
    re.DOTALL,
)

# Variables that the client programs of Podman and Docker read themselves, or that affect how they are loaded:
# podman(1), docker(1), containers.conf(5), containers-storage.conf(5), ld.so(8).
_CLIENT_VARIABLES = re.compile(
    r"PATH|HOME|LD_.*|XDG_.*|_?CONTAINERS?_.*|DOCKER_.*|STORAGE_.*|REGISTRY_AUTH_FILE|NOTIFY_SOCKET"
)


def runs_as_child(runtime: str) -> bool:
    """Return whether a program in an image runs as a child process of the runtime's caller.

    Examples
    --------
    >>> runs_as_child("apptainer"), runs_as_child("podman")
    (True, False)
    """
    return runtime in ("apptainer", "singularity")


def image_reference(runtime: str, image: str) -> str:
    """Return the reference of an image as a runtime reads it, whichever runtime the manifest was written for.

    Parameters
    ----------
    runtime : str
        One of `RUNTIMES`.
    image : str
        A reference such as ``ghcr.io/jgcri/gcam:7``, a path, or a URI such as ``docker://gcam:7``.

    Examples
    --------
    >>> image_reference("apptainer", "ghcr.io/jgcri/gcam:7"), image_reference("podman", "docker://gcam:7")
    ('docker://ghcr.io/jgcri/gcam:7', 'gcam:7')
    >>> image_reference("apptainer", "images/gcam.sif"), image_reference("docker", "gcam:7")
    ('images/gcam.sif', 'gcam:7')
    """
    if not runs_as_child(runtime):
        return image.removeprefix("docker://")
    if _PATH_OR_URI.fullmatch(image) or not _REFERENCE.fullmatch(image):
        return image
    return f"docker://{image}"


def unsafe_mount_characters(runtime: str, path: str) -> str:
    """Return the characters of a path that this runtime would read as syntax in a mount.

    Examples
    --------
    >>> unsafe_mount_characters("apptainer", "/data:2,a"), unsafe_mount_characters("podman", "/data:2,a")
    (':,', ',')
    >>> unsafe_mount_characters("docker", "/data")
    ''
    """
    # --bind takes a list of source:destination:options; --mount is one record of comma-separated values.
    syntax = ":,\n" if runs_as_child(runtime) else ',"\r\n'
    return "".join(character for character in syntax if character in path)


def chosen_runtime(component: ComponentConfig, wanted: str, first: str) -> str:
    """Return the runtime of a component: the target decides, and may leave it to the component.

    Without an image, a component is a plain process, unless it names a runtime itself, which is an error.

    Parameters
    ----------
    component : ComponentConfig
        The component.
    wanted : str
        The target's setting: ``none``, ``auto`` or a runtime.
    first : str
        The runtime of components that have an image and name none.

    Returns
    -------
    str
        A runtime, or ``none`` for a plain process.

    Examples
    --------
    >>> from scalable.manifest.schema import ComponentConfig
    >>> gcam, plots = ComponentConfig(name="gcam", image="gcam:7"), ComponentConfig(name="plots")
    >>> chosen_runtime(gcam, "auto", "docker"), chosen_runtime(plots, "auto", "docker")
    ('docker', 'none')
    >>> chosen_runtime(gcam, "podman", "docker"), chosen_runtime(gcam, "none", "docker")
    ('podman', 'none')
    """
    if component.image is None and component.runtime in (None, "none"):
        return "none"
    return wanted if wanted != "auto" else component.runtime or first


def host_paths(component: ComponentConfig) -> dict[str, Path]:
    """Return the absolute host path of each mount; relative ones are resolved against the current directory.

    Examples
    --------
    >>> from scalable.manifest.schema import ComponentConfig
    >>> host_paths(ComponentConfig(name="gcam", mounts={"/data": "/in"}))["/data"].is_absolute()
    True
    """
    return {host: expand_home(host).absolute() for host in component.mounts}


def mounts_and_preload(component: ComponentConfig) -> tuple[dict[str, str], str | None]:
    """Return a component's mounts, and the preload script of its workers.

    Returns
    -------
    dict of str to str
        Path in the container by absolute path on the host, including the script if it is a file on this machine.
    str or None
        That file, else the component's value as it is: a script in the image, or the name of a module.
    """
    mounts = {str(path): component.mounts[host] for host, path in host_paths(component).items()}
    preload = component.preload_script
    if preload is not None and (script := expand_home(preload).absolute()).is_file():
        preload = str(script)
        mounts.setdefault(preload, preload)
    return mounts, preload


def check_container(spec: DeploymentSpec, tag: str, runtime: str) -> Iterator[ValidationIssue]:
    """Find what prevents a component from running in a container of this runtime on any machine. Offline."""
    component = spec.components[tag]
    if component.image is None:
        message = (
            f"is needed to run the component in a container of {runtime}; give it one, or take its runtime away to "
            "have it run as a plain process"
        )
        yield spec.component_issue(tag, "image", "E_NO_IMAGE", message)
    for host, inside in component.mounts.items():
        if odd := unsafe_mount_characters(runtime, host + inside):
            message = (
                f"has {' and '.join(map(repr, odd))} in a path, which {runtime} reads as something else; "
                "mount a directory of another name, such as one above it"
            )
            yield spec.manifest.issue(("components", tag, "mounts", host), "E_MOUNT", message)
    for variable in component.env:
        if is_read_by_client(runtime, variable):
            message = (
                f"is read by {runtime} itself and cannot be passed to the container; "
                "set it in the image, or in the component's preload_script"
            )
            where = ("components", tag, "env", variable)
            yield spec.manifest.issue(where, "E_CONTAINER_ENV", message)
    if component.gpus and not runs_as_child(runtime):
        message = f"has no effect: containers of {runtime} see no GPUs here; apptainer's do"
        yield spec.component_issue(tag, "gpus", "W_NO_EFFECT", message, "warning")


def is_read_by_client(runtime: str, variable: str) -> bool:
    """Return whether a variable cannot be passed to a container by name because the runtime itself reads it.

    Examples
    --------
    >>> is_read_by_client("podman", "LD_LIBRARY_PATH"), is_read_by_client("apptainer", "LD_LIBRARY_PATH")
    (True, False)
    """
    if runs_as_child(runtime):
        return variable == "HOME"  # which has its own option
    return _CLIENT_VARIABLES.fullmatch(variable) is not None


def container_argv(
    runtime: str,
    image: str,
    *,
    mounts: Mapping[str, str],
    variables: Iterable[str] = (),
    gpus: int = 0,
    shm_size: int | None = None,
    flags: Sequence[str] = (),
) -> list[str]:
    """Return the command that runs a worker in its image on the host's network, up to the worker's own argv.

    Parameters
    ----------
    runtime : str
        One of `RUNTIMES`.
    image : str
        As for `image_reference`.
    mounts : mapping of str to str
        Path in the container by path on the host; see `unsafe_mount_characters`.
    variables : iterable of str
        Names of variables that a container of Podman or Docker takes over from the environment of the command.
        Values must not be arguments, because every list of processes shows those. See `container_environment`.
    gpus : int
        Whether the worker sees the GPUs of its host; only Apptainer and Singularity have an option for it.
    shm_size : int or None
        Bytes of ``/dev/shm`` in a container of Podman or Docker, which count as its memory; None for their 64 MiB.
    flags : sequence of str
        Further options of the runtime.

    Examples
    --------
    >>> " ".join(container_argv("podman", "gcam:7", mounts={"/data": "/in"}, variables=["TOKEN"], flags=["--rm"]))
    ... # doctest: +NORMALIZE_WHITESPACE
    'podman run --rm --init --log-driver=none --security-opt=label=disable --network=host --entrypoint= --env TOKEN
     --mount type=bind,source=/data,target=/in gcam:7'
    >>> " ".join(container_argv("apptainer", "gcam.sif", mounts={"/data": "/in"}, gpus=1))
    'apptainer exec --no-eval --nv --bind /data:/in gcam.sif'
    """
    reference = image_reference(runtime, image)
    if runs_as_child(runtime):
        # Without --no-eval, a shell would evaluate the values of variables (apptainer(1), "Environment variables").
        options = [*flags, "--no-eval", *(["--nv"] if gpus else [])]
        for host, inside in mounts.items():
            options += ["--bind", f"{host}:{inside}"]
        return [runtime, "exec", *options, reference]
    options = [
        *flags,
        # Process 1 is a small init instead of the worker: the kernel ignores signals that process 1 does not handle.
        "--init",
        # What the worker writes goes to the log of its caller.
        "--log-driver=none",
        # SELinux would deny access to everything that is mounted (podman-run(1), "Labeling Volume Mounts").
        "--security-opt=label=disable",
        # MPI's ranks cannot communicate in the default of 64 MiB.
        *([f"--shm-size={shm_size}"] if shm_size else []),
        "--network=host",
        # As on Apptainer and Kubernetes, the image's own entry point is not run: the command is a Dask worker.
        "--entrypoint=",
    ]
    for variable in variables:
        options += ["--env", variable]
    for host, inside in mounts.items():
        # Unlike --volume, --mount accepts colons, and does not create a directory that is missing.
        options += ["--mount", f"type=bind,source={host},target={inside}"]
    return [runtime, "run", *options, reference]


def user_flags(*, keep_id: bool, home: str | None) -> list[str]:
    """Return the options with which a container of Podman or Docker runs as its caller, beside ``--user``.

    Parameters
    ----------
    keep_id : bool
        Whether the runtime maps users, as rootless Podman does; the caller then has the same id inside.
    home : str or None
        The worker's home directory, because an image has one for root alone; None for the image's.

    Examples
    --------
    >>> user_flags(keep_id=True, home="/tmp/worker")
    ['--userns=keep-id', '--env=HOME=/tmp/worker']
    """
    return [
        *(["--userns=keep-id"] if keep_id else []),
        # A path is not a secret, so its value may appear in a list of processes.
        *([f"--env=HOME={home}"] if home else []),
    ]


def container_environment(runtime: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return what the environment of the runtime must hold for the worker to have these variables.

    Podman and Docker take over those that `container_argv` names. Apptainer and Singularity take over those that have
    their own prefix, which neither they nor the system around them read.

    Examples
    --------
    >>> container_environment("docker", {"TOKEN": "t"}), container_environment("apptainer", {"PATH": "/opt/gcam/bin"})
    ({'TOKEN': 't'}, {'APPTAINERENV_PATH': '/opt/gcam/bin'})
    """
    prefix = f"{runtime.upper()}ENV_" if runs_as_child(runtime) else ""
    return {prefix + name: value for name, value in variables.items()}
