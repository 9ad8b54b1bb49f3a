from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from scalable.providers.slurm.preflight import _check_logs, _check_scratch


def mount(monkeypatch: pytest.MonkeyPatch, *mounts: tuple[Path, str]) -> None:
    """Make psutil report these mounts, with the file system types of a cluster."""
    found = [SimpleNamespace(mountpoint=str(path), fstype=kind) for path, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: found)


@pytest.mark.parametrize(("kind", "ok"), [("lustre", True), ("nfs4", True), ("tmpfs", None)])
def test_logs_should_be_on_a_shared_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ok: bool | None
) -> None:
    mount(monkeypatch, (Path("/"), "ext4"), (tmp_path.resolve(), kind))
    result = _check_logs(tmp_path / "runs/logs")
    assert (result.ok, result.name) == (ok, "logs_location")
    assert f"({kind})" in result.detail


def test_the_topmost_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path.resolve()
    mount(monkeypatch, (here, "autofs"), (here, "nfs"), (here.parent, "ext4"))
    assert _check_logs(tmp_path).ok


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directories_must_be_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert _check_logs(tmp_path / "logs").ok is False
    assert _check_scratch(str(tmp_path)).ok is None


def test_scratch_is_checked_on_this_machine_in_place_of_a_node(tmp_path: Path) -> None:
    result = _check_scratch(str(tmp_path / "dask"))
    assert result.ok
    assert str(tmp_path) in result.detail
