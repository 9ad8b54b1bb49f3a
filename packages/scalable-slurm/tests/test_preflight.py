from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.options import SlurmOptions
from scalable.providers.slurm.preflight import _check_logs, _check_scratch, preflight
from scalable.providers.slurm.site import SiteDefaults
from scalable.testing.offline import spec_of

if TYPE_CHECKING:
    from conftest import FakeCommand


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


def checked(
    fake_command: FakeCommand,
    options: SlurmOptions,
    site: SiteDefaults,
    partitions: str = "short*|up\nlong|up\nclosed|down\n",
    sbatch: str = ":",
) -> dict[str, tuple[bool | None, str]]:
    """Return what a check finds at a site with these partitions, by name."""
    for command in ("squeue", "scancel", "scontrol"):
        fake_command(command)
    fake_command("sinfo", stdout=partitions)
    fake_command("sbatch", then=sbatch)
    components = spec_of("slurm", "", "gcam: {}").components
    results = asyncio.run(preflight(Slurm(), options, components, site))
    return {result.name: (result.ok, result.detail) for result in results}


@pytest.mark.parametrize(
    ("queue", "directives", "variable", "found"),
    [
        (None, (), None, (True, "short is up, the site's default")),
        (None, ("-p", "long"), None, (True, "long is up, by a directive")),
        (None, ("--partition=closed",), "long", (False, "'closed' is down, by a directive")),
        (None, (), "long", (True, "long is up, by $SBATCH_PARTITION")),
        (
            None,
            (),
            "lng",
            (False, "no partition 'lng', by $SBATCH_PARTITION (did you mean 'long'?)"),
        ),
        ("long", (), "closed", (True, "long is up")),
    ],
)
def test_the_partition_is_checked_that_jobs_get_into(
    fake_command: FakeCommand,
    monkeypatch: pytest.MonkeyPatch,
    queue: str | None,
    directives: tuple[str, ...],
    variable: str | None,
    found: tuple[bool, str],
) -> None:
    if variable is None:
        monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    else:
        monkeypatch.setenv("SBATCH_PARTITION", variable)
    site = SiteDefaults(directives=directives)
    ok, detail = checked(fake_command, SlurmOptions(queue=queue), site)["partition"]
    assert (ok, found[1] in detail) == (found[0], True), detail


def test_a_partition_that_is_not_passed_on_is_not_the_one(
    fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    options, site = SlurmOptions(queue="long"), SiteDefaults(skipped=("-p ",))
    assert checked(fake_command, options, site)["partition"] == (
        True,
        "short is up, the site's default",
    )
    default_is_down = checked(fake_command, options, site, "short*|inact\nlong|up\n")["partition"]
    assert default_is_down == (False, "partition 'short' is inact, the site's default")
    assert checked(fake_command, options, site, "short|up\n")["partition"][0] is None


def test_the_local_directory_is_checked_that_workers_get(
    fake_command: FakeCommand, tmp_path: Path
) -> None:
    site = SiteDefaults(worker_arguments=("--local-directory", str(tmp_path)))
    assert str(tmp_path) in checked(fake_command, SlurmOptions(), site)["local_directory"][1]


def test_it_is_not_known_what_an_sbatch_that_hangs_would_accept(
    fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalable.providers.slurm.commands._ANSWER_WITHIN", 1.0)
    options, site = SlurmOptions(workers_per_job=1), SiteDefaults()
    ok, detail = checked(fake_command, options, site, sbatch="exec sleep 600")["component gcam"]
    assert (ok, detail) == (None, "sbatch --test-only: no answer for 1 s")


def test_as_many_workers_in_one_job_are_checked_as_slurm_accepts(
    fake_command: FakeCommand,
) -> None:
    site = SiteDefaults(memory=4000 * 2**20)
    nodes = "whole*|up\nwhole|EXCLUSIVE|16|64000|(null)|(null)\n"
    refuse = "Requested node configuration is not available"
    less = f"case $* in *--mem=48000M*) ;; *--mem=[1-4]?000M*|*--mem=[4-8]000M*) ;; *) echo {refuse}; exit 1;; esac >&2"
    results = checked(fake_command, SlurmOptions(queue="whole"), site, nodes, less)
    assert results["component gcam"] == (True, "Slurm would accept it; 12 workers in each job")
    results = checked(
        fake_command, SlurmOptions(queue="whole"), site, nodes, f"echo {refuse} >&2; exit 1"
    )
    assert results["component gcam"] == (False, refuse)
