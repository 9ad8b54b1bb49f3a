from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scalable.manifest.schema import ComponentConfig
from scalable.providers.slurm.options import JobOptions, SlurmOptions
from scalable.providers.slurm.request import JobRequest, job_request, logs_directory
from scalable.providers.slurm.sbatch import sbatch_argv
from scalable.providers.slurm.site import read_site


def request(component: ComponentConfig, options: SlurmOptions, **site: object) -> JobRequest:
    named = {name.replace("_", "-"): value for name, value in site.items()}
    return job_request(component, options, read_site(named), logs="/logs", tls=None)


GCAM = ComponentConfig(name="gcam", cpus=4, memory=8 * 2**30)
BARE = ComponentConfig(name="bare")


def test_an_mpi_component_has_its_nodes_and_ranks() -> None:
    wrf = ComponentConfig(name="wrf", nodes=2, ranks=8, env={"CASE": "a"})
    job = request(wrf, SlurmOptions(), cores=4)
    shape = ["--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=4"]
    assert sbatch_argv(job, 1, job_name="j", comment="c")[1:5] == shape
    told = {"SCALABLE_NODES": "2", "SCALABLE_RANKS": "8", "SCALABLE_CPUS_PER_RANK": "4"}
    assert job.env == {**told, "CASE": "a"}
    assert (job.room, request(BARE, SlurmOptions()).env) == (1, {})
    uneven = request(ComponentConfig(name="wrf", nodes=2, ranks=3), SlurmOptions())
    assert sbatch_argv(uneven, 1, job_name="j", comment="c")[1:4] == [
        "--nodes=2",
        "--ntasks=3",
        "--cpus-per-task=1",
    ]


def test_a_component_overrides_the_site() -> None:
    job = request(GCAM, SlurmOptions(), job_cpu=2, job_mem="1GB")
    assert (job.cpus, job.memory) == (4, 8 * 2**30)


def test_the_site_overrides_the_schema() -> None:
    job = request(BARE, SlurmOptions(), cores=6, memory="24 GB")
    assert (job.cpus, job.memory) == (6, 24 * 10**9)


def test_a_target_overrides_the_site() -> None:
    site = {"queue": "slow", "account": "a", "walltime": "00:30:00", "interface": "eth0"}
    options = SlurmOptions(queue="short", walltime=3600)
    job = request(GCAM, options, **site)
    assert (job.partition, job.walltime) == ("short", 3600)
    assert (job.account, job.interface) == ("a", "eth0")
    assert request(GCAM, SlurmOptions(), **site).walltime == "00:30:00"


@pytest.mark.parametrize("time", ["30", 30, "90:00", "1-12", "UNLIMITED"])
def test_a_walltime_of_the_site_is_passed_to_sbatch_unchanged(time: str | int) -> None:
    job = request(BARE, SlurmOptions(), walltime=time)
    assert f"--time={time}" in sbatch_argv(job, 1, job_name="j", comment="c")


def test_job_mem_of_the_site_has_the_units_of_sbatch() -> None:
    job = request(BARE, SlurmOptions(), job_mem="4000", memory="24 GB")
    assert "--mem=4000M" in sbatch_argv(job, 1, job_name="j", comment="c")


def test_times_and_amounts_of_the_site_may_have_dasks_units() -> None:
    job = request(BARE, SlurmOptions(), memory="16e9", death_timeout="5 minutes")
    assert (job.memory, job.death_timeout) == (16 * 10**9, 300)


def test_lines_and_directives_of_the_site_come_first() -> None:
    job = request(
        GCAM,
        SlurmOptions(prologue=("mine",), directives=("--exclusive",)),
        job_script_prologue=["theirs"],
        job_extra_directives=["-C haswell"],
        job_directives_skip=["--mem"],
    )
    assert job.prologue == ("theirs", "mine")
    assert job.directives == ("-C", "haswell", "--exclusive")
    assert job.skipped == ("--mem",)


def test_workers_run_this_python_unless_somebody_says_otherwise() -> None:
    assert request(GCAM, SlurmOptions()).python == sys.executable
    assert request(GCAM, SlurmOptions(), python="/site/python").python == "/site/python"
    assert request(GCAM, SlurmOptions(python="/my/python"), python="/site").python == "/my/python"


def test_without_an_image_nothing_runs_in_a_container() -> None:
    assert request(BARE, SlurmOptions()).runtime == "none"


def test_a_component_may_have_its_own_job_options() -> None:
    options = SlurmOptions(
        queue="short",
        walltime=3600,
        modules=("gcc/13",),
        components={"gcam": JobOptions(queue="gpu", walltime=7200, modules=())},
    )
    gcam, bare = request(GCAM, options), request(BARE, options)
    assert (gcam.partition, gcam.walltime, gcam.modules) == ("gpu", 7200, ())
    assert (bare.partition, bare.walltime, bare.modules) == ("short", 3600, ("gcc/13",))


def test_without_containers_the_image_is_ignored() -> None:
    boxed = ComponentConfig(name="gcam", image="/g.sif", runtime="podman")
    assert request(boxed, SlurmOptions()).runtime == "podman"
    job = request(boxed, SlurmOptions(container_runtime="none"))
    assert (job.runtime, job.image) == ("none", None)


def test_paths_on_this_machine_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "prepare.py").touch()
    mounts = {"data": "/data", "~/maps": "/maps"}
    gcam = ComponentConfig(name="gcam", mounts=mounts, preload_script="prepare.py")
    job = request(gcam, SlurmOptions())
    script = str(tmp_path / "prepare.py")
    assert job.preload == script
    assert job.mounts == {
        str(tmp_path / "data"): "/data",
        "/home/me/maps": "/maps",
        script: script,
    }


def test_a_preload_script_that_does_not_exist_here_is_in_the_image_or_a_module() -> None:
    gcam = ComponentConfig(name="gcam", preload_script="gcam.prepare")
    assert request(gcam, SlurmOptions()).preload == "gcam.prepare"


def test_what_a_component_requests_is_no_directive_of_the_site() -> None:
    given = ["-N 1", "-n1", "--mem-per-cpu=4G", "-Cssd"]
    wrf = ComponentConfig(name="wrf", nodes=4, ranks=64, memory=2**30)
    assert request(wrf, SlurmOptions(), job_extra=given).directives == ("-Cssd",)
    assert request(BARE, SlurmOptions(), job_extra=given).directives == ("-N", "1", *given[1:])


def test_home_and_variables_in_paths_are_those_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    job = request(BARE, SlurmOptions(), python="~/env/bin/python", local_directory="~/${TMPDIR}")
    assert job.python == f"{tmp_path}/env/bin/python"
    assert job.local_directory == f"{tmp_path}/${{TMPDIR}}"
    site = read_site({"log-directory": "$SCRATCH/logs"})
    assert logs_directory(SlurmOptions(), site) == Path("/scratch/me/logs")
