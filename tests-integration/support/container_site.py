"""The container runtimes of this machine: images for tests, and what a user sees of the containers of a run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import container_image

TARGET = f"here{os.getpid()}"
"""What the tests call their target, and so their runs: two runs of the tests at once must not see each other's."""


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

    def run(self, *words: str) -> str:
        """Run one of the runtime's commands."""
        return subprocess.run(
            [self.runtime, *words], capture_output=True, text=True, check=True
        ).stdout

    def refusal(self) -> str:
        """Say why no container can run here; nothing if one can."""
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

    def containers(self, run: str = TARGET) -> list[str]:
        """List the containers of the runs whose names begin so, those that have ended too."""
        if self.runtime == "apptainer":  # has none, only processes
            return []
        label = "scalable.run"
        # One that is removed while they are looked at is no concern: it is looked again.
        found = self.run("ps", "--all", "--quiet", f"--filter=label={label}").split()
        done = subprocess.run(
            [self.runtime, "inspect", *found], capture_output=True, text=True, check=False
        )
        return [
            container["Name"].removeprefix("/")
            for container in json.loads(done.stdout or "[]")
            if container["Config"]["Labels"][label].startswith(run)
        ]

    def _provide(self, kind: str, *, python: bool) -> str:
        """Make an image, unless an earlier run of the tests has made it; say how a manifest names it."""
        recipe = Path(container_image.__file__).read_bytes() + container_image.facts().encode()
        name = f"localhost/scalable-tests-{kind}:{hashlib.sha256(recipe).hexdigest()[:12]}"
        if self.runtime != "apptainer" and self._has(name):
            return name
        archive = self._directory / f"{kind}.tar"
        container_image.write_image(archive, name, python=python)
        if self.runtime == "apptainer":
            return str(self._unpack(archive, self._directory / kind))
        self.run("load", "--quiet", "--input", str(archive))
        archive.unlink()
        return name

    def _has(self, name: str) -> bool:
        words = [self.runtime, "image", "inspect", name]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def _unpack(self, archive: Path, root: Path) -> Path:
        """Make a directory of an image's one layer, which Apptainer takes for an image."""
        root.mkdir()
        with tarfile.open(archive) as image:
            (layer,) = (member for member in image if member.name.endswith("/layer.tar"))
            content = image.extractfile(layer)
            assert content is not None
            # Not by tarfile: not every 3.11 has its filters, and later ones warn where there is none.
            words = ["tar", "--extract", f"--directory={root}"]
            subprocess.run(words, input=content.read(), capture_output=True, check=True)
        return root
