from __future__ import annotations

import shlex
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from scalable.providers.slurm.script import (
    JobRequest,
    Tls,
    job_environment,
    job_script,
    sbatch_arguments,
)

# What a file system and a process can hold: anything but NUL; surrogates have no UTF-8.
anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def arguments(request: JobRequest, n: int = 1) -> list[str]:
    return sbatch_arguments(request, n, job_name="scalable-r", comment="c")


@given(anything)
def test_no_value_is_ever_read_by_the_shell(value: str) -> None:
    request = JobRequest(
        "gcam",
        "/logs",
        modules=(value,),
        python=value,
        preload=value,
        interface=value,
        local_directory=value,
        tls=Tls(value, value, value),
    )
    # A shell that prints the words instead of running them: `module` and `exec` as functions.
    printing = "module() { printf '%s\\0' \"$@\"; }; exec() { printf '%s\\0' \"$@\"; }\n"
    script = job_script(request, value)
    words = subprocess.run(
        ["bash"],
        input=(printing + script).encode(),
        capture_output=True,
        check=True,
        env={"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
    ).stdout.split(b"\0")
    said = [word.decode() for word in words[:-1]]
    assert said[:2] == ["load", value]
    assert said[2] == value
    for option in ("--local-directory", "--interface", "--tls-ca-file", "--tls-key", "--preload"):
        assert said[said.index(option) + 1] == value
    assert said[-2:] == ["--name", "gcam-7_3"]


def test_a_line_that_fails_starts_no_worker() -> None:
    request = JobRequest("gcam", "/logs", prologue=("false",), python="/bin/echo")
    assert subprocess.run(["bash"], input=job_script(request, "x"), text=True).returncode == 1


def test_what_is_not_said_is_left_to_slurm() -> None:
    said = arguments(JobRequest("gcam", "/logs"))
    for option in ("mem", "time", "gres", "partition", "account", "qos", "constraint"):
        assert not any(word.startswith(f"--{option}=") for word in said)


def test_memory_and_walltime_are_rounded_up_to_what_slurm_counts_in() -> None:
    said = arguments(JobRequest("gcam", "/logs", memory=8 * 10**9, walltime=61))
    assert "--mem=7630M" in said
    assert "--time=2" in said


def test_everything_said_reaches_sbatch_as_one_word_each() -> None:
    request = JobRequest(
        "gcam",
        "/with space/100%",
        gpus=2,
        partition="p",
        account="it's $(x)",
        qos="q",
        constraint="a&b",
        reservation="r",
        directives=("--mail-type=END",),
    )
    said = arguments(request, n=48)
    assert {
        "--array=0-47",
        "--gres=gpu:2",
        "--partition=p",
        "--account=it's $(x)",
        "--qos=q",
        "--constraint=a&b",
        "--reservation=r",
        "--mail-type=END",
        "--output=/with space/100%%/%A_%a.log",
    } <= set(said)


def test_options_that_a_site_does_not_take_are_left_out() -> None:
    said = arguments(JobRequest("gcam", "/logs", memory=2**30, skipped=("--mem",)))
    assert not any(word.startswith("--mem") for word in said)


def test_variables_are_inherited_and_never_written() -> None:
    request = JobRequest("gcam", "/logs", cpus=4, env={"TOKEN": "hush", "OMP_NUM_THREADS": "2"})
    assert "hush" not in job_script(request, "x") + " ".join(arguments(request)) + repr(request)
    environment = job_environment(request)
    assert environment["TOKEN"] == "hush"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["MKL_NUM_THREADS"] == "4"


def test_a_container_sees_its_mounts_its_scratch_and_its_keys() -> None:
    request = JobRequest(
        "gcam",
        "/logs",
        runtime="apptainer",
        image="/images/g cam.sif",
        mounts={"/data in": "/data"},
        gpus=1,
        tls=Tls("/run/tls/ca", "/run/tls/cert", "/run/tls/key"),
    )
    last = job_script(request, "tls://h:1").splitlines()[-1]
    words = shlex.split(last)
    assert words[:4] == ["exec", "apptainer", "exec", "--nv"]
    assert [words[i + 1] for i, word in enumerate(words) if word == "--bind"] == [
        "/data in:/data",
        "/tmp:/tmp",
        "/run/tls:/run/tls",
    ]
    image = words.index("/images/g cam.sif")
    assert words[image + 1 : image + 3] == ["dask", "worker"]


def test_a_variable_enters_a_container_by_name_alone() -> None:
    request = JobRequest("a", "/l", runtime="podman", image="a:1", env={"TOKEN": "hush"})
    script = job_script(request, "x")
    assert "--env TOKEN" in script
    assert "hush" not in script
