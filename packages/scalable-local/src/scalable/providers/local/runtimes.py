"""Calls of the container runtimes of this machine through their client programs. Blocking."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from scalable.cluster.port import Leftover
from scalable.errors import ClusterError
from scalable.providers.base import Owned
from scalable.providers.containers import RUNTIMES, image_reference, runs_as_child
from scalable.providers.local.command import Container
from scalable.providers.local.containers import RUN_LABEL, USER_LABEL, Runtime, find_error_line
from scalable.providers.local.termination import end_containers, remove_containers

__all__ = [
    "Containers",
    "RuntimeFailedError",
    "first_installed",
    "has_image",
    "is_image_file",
    "list_containers",
    "probe",
    "pull",
    "remove_owned",
]

_TIMEOUT = 60.0
"""Seconds in which a runtime must answer, except when it fetches an image."""


class RuntimeFailedError(ClusterError):
    """A container runtime failed.

    Attributes
    ----------
    runtime : str
        The runtime.
    detail : str
        Its own message.
    """

    def __init__(self, runtime: str, detail: str) -> None:
        self.runtime, self.detail = runtime, detail
        super().__init__(f"{runtime}: {detail}")


def first_installed() -> str | None:
    """Return the first runtime that is installed on this machine, in order of preference."""
    return next((name for name in RUNTIMES if shutil.which(name)), None)


def probe(name: str) -> Runtime:
    """Return a runtime with its abilities on this machine.

    Raises
    ------
    RuntimeFailedError
        It is not installed, does not answer, or its containers would not reach a scheduler on this machine.
    """
    if shutil.which(name) is None:
        raise RuntimeFailedError(name, "is not installed here")
    if runs_as_child(name):
        _run(name, "--version")
        return Runtime(name)
    facts = json.loads(_run(name, "info", "--format={{json .}}"))
    return _read_podman(facts) if name == "podman" else _read_docker(facts)


def _read_podman(facts: dict[str, Any]) -> Runtime:
    host = facts["host"]
    if host.get("serviceIsRemote"):
        raise _separate_network_error("podman")
    controllers = host.get("cgroupControllers") or ()
    return Runtime(
        "podman",
        limits_memory="memory" in controllers,
        limits_cpus="cpu" in controllers,
        rootless=host["security"]["rootless"],
    )


def _read_docker(facts: dict[str, Any]) -> Runtime:
    if errors := facts.get("ServerErrors"):  # the client's exit status is 0 even so
        raise RuntimeFailedError("docker", "; ".join(errors))
    # Rootless Docker has a separate network.
    rootless = "name=rootless" in (facts.get("SecurityOptions") or ())
    if rootless or sys.platform != "linux" or "Docker Desktop" in facts.get("OperatingSystem", ""):
        raise _separate_network_error("docker")
    return Runtime(
        "docker",
        limits_memory=bool(facts.get("MemoryLimit")),
        limits_cpus=bool(facts.get("CpuCfsQuota")),
    )


def _separate_network_error(name: str) -> RuntimeFailedError:
    return RuntimeFailedError(
        name,
        "its containers have a network apart from this machine's, and would not reach the scheduler",
    )


def has_image(name: str, image: str) -> bool:
    """Return whether an image is on this machine; False for images in Apptainer's cache, which cannot be looked up."""
    reference = image_reference(name, image)
    if runs_as_child(name):
        return os.access(reference, os.R_OK)
    try:
        _run(name, "image", "inspect", "--format={{.Id}}", reference)
    except RuntimeFailedError:
        return False
    return True


def is_image_file(name: str, image: str) -> bool:
    """Return whether a runtime would read an image from a file of this machine."""
    return runs_as_child(name) and ":" not in image_reference(name, image)


def pull(name: str, image: str) -> None:
    """Fetch an image, without a time limit.

    Raises
    ------
    RuntimeFailedError
        The image is not available.
    """
    reference = image_reference(name, image)
    if not runs_as_child(name):
        _run(name, "pull", "--quiet", reference, timeout=None)
    elif is_image_file(name, image):
        raise RuntimeFailedError(name, "there is no such file, or it cannot be read")
    else:  # a URI: its image is cached when it is first run
        _run(name, "exec", "--cleanenv", reference, "sh", "-c", ":", timeout=None)


class Containers:
    """The containers of one run, which outlive the processes that started them.

    Parameters
    ----------
    run : str
        Id of the run in their label.
    runtimes : iterable of str
        The runtimes that run them.
    """

    def __init__(self, run: str, runtimes: Iterable[str]) -> None:
        self.label = f"{RUN_LABEL}={run}"
        self.runtimes = tuple(sorted(name for name in runtimes if not runs_as_child(name)))

    def out_of_memory(self, container: Container) -> bool:
        """Return whether the kernel killed a container, which has not been removed yet, because it was out of memory.

        False also where the runtime does not know, such as Podman on cgroups of version 1.
        """
        try:
            answer = _run(
                container.runtime, "inspect", "--format={{.State.OOMKilled}}", container.name
            )
        except RuntimeFailedError:
            return False
        return answer.strip() == "true"

    def remove(self, containers: Iterable[Container]) -> None:
        """Stop and remove some; `sweep` reports those that could not be removed, because they still carry the label."""
        by_runtime: dict[str, list[str]] = {}
        for container in containers:
            by_runtime.setdefault(container.runtime, []).append(container.name)
        for runtime, names in by_runtime.items():
            with suppress(OSError, subprocess.SubprocessError):
                remove_containers(runtime, names)

    def sweep(self) -> list[Leftover]:
        """Stop and remove all, and return the runtimes that still have some."""
        problems = {runtime: end_containers(runtime, self.label) for runtime in self.runtimes}
        return [
            Leftover(f"{runtime} containers", f"with label {self.label}", problem)
            for runtime, problem in problems.items()
            if problem
        ]


def list_containers(user: int, owner: str) -> Iterator[Owned]:
    """List the containers of all runs of a user, whose name is `owner`, in every runtime that answers."""
    for runtime in _daemon_runtimes():
        try:
            found = _list_ids(runtime, user)
        except RuntimeFailedError:  # without a daemon, there are no containers
            continue
        for line in _inspect(runtime, user, found).splitlines():
            name, run, state = line.split("\t")
            yield Owned(f"{runtime} container", name.removeprefix("/"), run, owner, state)


def _list_ids(runtime: str, user: int) -> list[str]:
    mine = f"--filter=label={USER_LABEL}={user}"
    return _run(runtime, "ps", "--all", "--quiet", "--no-trunc", mine).split()


def _inspect(runtime: str, user: int, ids: list[str]) -> str:
    """Return a line with name, run and state for each of a user's containers."""
    fields = ("{{.Name}}", f'{{{{index .Config.Labels "{RUN_LABEL}"}}}}', "{{.State.Status}}")
    while ids:
        try:
            return _run(runtime, "inspect", "--format=" + "\t".join(fields), *ids)
        except RuntimeFailedError:
            # It fails for all if one of them was removed since they were listed.
            before, ids = ids, _list_ids(runtime, user)
            if ids == before:
                raise
    return ""


_ALREADY_REMOVED = ("no such container", "removal of container")
"""Podman's and Docker's words for a container that is gone, or that something else removes now."""


def remove_owned(owned: Iterable[Owned]) -> Iterator[Leftover]:
    """Stop and remove containers that `list_containers` returned; yield those that could not be removed."""
    for item in owned:
        # Podman fails if the container's program ends at the moment at which it is killed, and can remove it then.
        if _remove(item) and (error := _remove(item)):
            yield Leftover(item.kind, item.name, error)


def _remove(item: Owned) -> str:
    """Stop and remove a container; return why it could not be removed, or nothing."""
    try:
        remove_containers(item.kind.partition(" ")[0], [item.name])
    except subprocess.CalledProcessError as error:
        # Its client's watchdog may remove it at the same time.
        if any(said in error.stderr.lower() for said in _ALREADY_REMOVED):
            return ""
        return find_error_line(error.stderr) or f"status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


def _daemon_runtimes() -> Iterator[str]:
    return (name for name in RUNTIMES if not runs_as_child(name) and shutil.which(name))


def _run(runtime: str, *arguments: str, timeout: float | None = _TIMEOUT) -> str:
    try:
        done = subprocess.run(
            [runtime, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise RuntimeFailedError(runtime, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailedError(runtime, f"did not answer in {timeout:g} s") from error
    if done.returncode != 0:
        raise RuntimeFailedError(runtime, find_error_line(done.stderr))
    return done.stdout
