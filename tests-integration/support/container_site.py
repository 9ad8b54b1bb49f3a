"""The container runtimes of this machine: images for tests, and the containers of a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import container_image
import psutil
import pytest

SCRIPTS = Path(__file__).parents[1] / "containers"

_VARIABLE = f"SCALABLE_TESTS_TARGET_{os.environ.get('PYTEST_XDIST_WORKER', '')}"
TARGET = os.environ.setdefault(_VARIABLE, f"here{os.getpid()}")
"""Name of the tests' target and so of their runs: two concurrent runs of the tests, and two processes of one run, must
not see each other's.

Clients that the tests start in other processes inherit it.
"""


def provide(runtime: str, directory: Path, patch: pytest.MonkeyPatch) -> ContainerSite:
    """Return a runtime that runs containers here, installed or unpacked if possible; otherwise skip with the reason.

    Parameters
    ----------
    runtime : str
        ``podman``, ``docker`` or ``apptainer``.
    directory : Path
        For files that stay as long as the tests run.
    patch : pytest.MonkeyPatch
        Changes the environment for this runtime on this machine.
    """
    if sys.platform != "linux":
        pytest.skip("containers of other systems are in a virtual machine")
    if runtime == "podman":
        _call(SCRIPTS / "up.sh")
        if "CONTAINERS_CONF" not in os.environ:
            patch.setenv("CONTAINERS_CONF", str(_write_configuration(directory)))
    elif runtime == "apptainer":
        patch.setenv("PATH", _call(SCRIPTS / "apptainer.sh"), prepend=os.pathsep)
    elif shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    elif subprocess.run([runtime, "ps"], capture_output=True).returncode:
        pytest.skip(f"no daemon of {runtime} answers")
    try:
        site = ContainerSite(runtime, directory)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{runtime} takes no image here: {error.stderr.strip()}")
    if runtime == "apptainer" and site.refusal():
        # In a virtual machine or a container, root may lack capabilities that Apptainer requires. Root of a user
        # namespace has them.
        patch.setenv("APPTAINER_USERNS", "1")
    if refusal := site.refusal():
        pytest.skip(f"{runtime} runs nothing here: {refusal}")
    return site


def _call(script: Path) -> str:
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return done.stdout.strip()


def _write_configuration(directory: Path) -> Path:
    """Configure podman with modest limits: in a virtual machine, not even root may raise limits to podman's defaults.

    Where there are cgroups of both versions, only runc works.
    """
    limits = [
        f"{name}={value}:{value}"
        for name, kind, modest in (
            ("nofile", resource.RLIMIT_NOFILE, 16384),
            ("nproc", resource.RLIMIT_NPROC, 4096),
        )
        for hard in resource.getrlimit(kind)[1:]
        for value in [modest if hard == resource.RLIM_INFINITY else min(hard, modest)]
    ]
    lines = ["[containers]", f"default_ulimits = {limits!r}"]
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        lines += ["[engine]", 'runtime = "runc"']
    configuration = directory / "containers.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


class ContainerSite:
    """One runtime, and two images for it: one of this machine's Python with Dask, one with a shell alone.

    Parameters
    ----------
    runtime : str
        ``podman``, ``docker`` or ``apptainer``.
    directory : Path
        For files that stay as long as the tests run.
    """

    def __init__(self, runtime: str, directory: Path) -> None:
        self.runtime = runtime
        self._directory = directory
        self.bare = self._provide("bare", python=False)
        self.image = self._provide("worker", python=True)

    @cached_property
    def other_image(self) -> str:
        """An image for workers that differs from `image` by a variable of its containers."""
        return self._provide("other", python=True, env={"SCALABLE_CONFORMANCE_IMAGE": "other"})

    def run(self, *arguments: str) -> str:
        """Run one of the runtime's commands."""
        return subprocess.run(
            [self.runtime, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def refusal(self) -> str:
        """Return why no container can run here; empty if one can."""
        start = (
            ["exec"] if self.runtime == "apptainer" else ["run", "--rm", "--init", "--network=host"]
        )
        done = subprocess.run(
            [self.runtime, *start, self.bare, "sh", "-c", ":"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr.strip() if done.returncode else ""

    def containers(self, begins: str = TARGET, *, label: str = "scalable.run") -> list[str]:
        """Return the containers with a label whose value begins with `begins`, including those that have ended."""
        if self.runtime == "apptainer":  # has only processes
            return []
        # A container that is removed in between makes inspect fail; callers repeat the call.
        found = self.run("ps", "--all", "--quiet", f"--filter=label={label}").split()
        done = subprocess.run(
            [self.runtime, "inspect", *found], capture_output=True, text=True, check=False
        )
        return [
            container["Name"].removeprefix("/")
            for container in json.loads(done.stdout or "[]")
            if container["Config"]["Labels"][label].startswith(begins)
        ]

    def unmount(self) -> None:
        """Unmount the file systems of Apptainer's containers that were killed.

        Each is served by a process in its own process group, which a Slurm that tracks only groups does not end.
        """
        for process in psutil.process_iter(["name"]):
            if not process.info["name"].startswith("squashfuse"):
                continue
            with contextlib.suppress(psutil.Error):  # it may have ended
                images = [Path(file.path) for file in process.open_files()]
                if any(image.is_relative_to(self._directory) for image in images):
                    process.kill()

    def _provide(self, kind: str, *, python: bool, env: Mapping[str, str] | None = None) -> str:
        """Return the name of an image for a manifest, after building it unless an earlier run of the tests has."""
        recipe = Path(container_image.__file__).read_bytes() + container_image.facts().encode()
        name = f"localhost/scalable-tests-{kind}:{hashlib.sha256(recipe).hexdigest()[:12]}"
        if self.runtime != "apptainer" and self._has(name):
            return name
        archive = self._directory / f"{kind}.tar"
        container_image.write_image(archive, name, python=python, env=env)
        if self.runtime == "apptainer":
            name = str(self._directory / f"{kind}.sif")
            self.run(
                "build",
                "--mksquashfs-args=-Xcompression-level 1",
                name,
                f"docker-archive:{archive}",
            )
        else:
            self.run("load", "--quiet", "--input", str(archive))
        archive.unlink()
        return name

    def _has(self, name: str) -> bool:
        argv = [self.runtime, "image", "inspect", name]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
