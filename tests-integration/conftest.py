"""Fixtures that install distributions into directories of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheels(root: Path) -> dict[str, Path]:
    """Our wheels, by distribution."""
    found = {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in root.glob("dist/*.whl")}
    if not found:
        pytest.skip("there are no wheels in dist/; run: nox -s wheels")
    return found


@pytest.fixture
def make_site(wheels: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Make a directory of installed distributions, as ``pip install --target`` would."""

    def make(name: str, *distributions: str) -> Path:
        for distribution in distributions:
            with zipfile.ZipFile(wheels[distribution]) as wheel:
                wheel.extractall(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def uninstall() -> Callable[[Path, str], None]:
    """Remove a distribution's files from a directory, and the directories that become empty."""

    def remove(site: Path, distribution: str) -> None:
        (record,) = site.glob(f"{distribution.replace('-', '_')}-*.dist-info/RECORD")
        for line in record.read_text(encoding="utf-8").splitlines():
            file = site / line.rsplit(",", 2)[0]
            file.unlink()
            shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
            for parent in file.parents:
                if parent == site or any(parent.iterdir()):
                    break
                parent.rmdir()

    return remove


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything that is installed here except Scalable."""
    directory = tmp_path_factory.mktemp("third-party")
    for entry in {*Path(sysconfig.get_path("purelib")).iterdir()}:
        if not entry.name.lstrip("_").startswith("scalable"):
            (directory / entry.name).symlink_to(entry)
    return directory


@pytest.fixture
def python(third_party: Path, tmp_path: Path) -> Callable[..., str]:
    """Run code in an interpreter that sees only these sites and third-party packages; return its output."""

    def run(code: str, *sites: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env={
                "HOME": str(tmp_path),
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(map(str, (*sites, third_party))),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
