from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scalable.providers.containers import RUNTIMES
from scalable.providers.slurm.request import JobRequest
from scalable.providers.slurm.sbatch import sbatch_argv
from scalable.providers.slurm.script import job_environment, job_script
from scalable.providers.tls import TlsFiles

REACHED = "timeout() { :; }; export OMP_NUM_THREADS=1 APPTAINERENV_OMP_NUM_THREADS=1 SINGULARITYENV_OMP_NUM_THREADS=1\n"
"""As if the scheduler listened, and sbatch had passed on the environment, for a script that follows."""

# What paths and environment variables can contain: anything but NUL. Surrogates cannot be encoded.
anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def script_of(request: JobRequest, scheduler_address: str = "x") -> str:
    return job_script(request, scheduler_address, run="it's", comment="scalable run=it's")


def executed_argv(request: JobRequest, scheduler_address: str = "tls://h:1") -> list[str]:
    """Run the script in a shell where ``exec`` and ``module`` print their arguments, and return those."""
    printing = "module() { printf '%s\\0' \"$@\"; }; exec() { printf '%s\\0' \"$@\"; }\n"
    script = script_of(request, scheduler_address)
    done = subprocess.run(
        ["bash"],
        input=(REACHED + printing + script).encode(),
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
    )
    return [argument.decode() for argument in done.stdout.split(b"\0")[:-1]]


literal = anything.filter(lambda value: not re.search(r"\$[A-Za-z_{]", value))
"""Values without variables, which are expanded in the local directory alone."""


@given(anything, literal)
def test_no_value_is_interpreted_by_the_shell(value: str, directory: str) -> None:
    request = JobRequest(
        "gcam",
        "/logs",
        modules=(value,),
        python=value,
        preload=value,
        interface=value,
        local_directory=directory,
        tls=TlsFiles(value, value, value),
    )
    argv = executed_argv(request, value)
    assert argv[:2] == ["load", value]
    assert argv[2] == value
    assert argv[argv.index("--local-directory") + 1] == directory
    for option in ("--interface", "--tls-ca-file", "--tls-key", "--preload"):
        assert argv[argv.index(option) + 1] == value
    assert argv[-2:] == ["--name", "gcam-7_3"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@given(anything, literal)
@example("--preload", "0")
def test_no_value_of_a_container_is_interpreted_by_the_shell(
    runtime: str, value: str, other: str
) -> None:
    request = JobRequest(
        "gcam",
        f"/{value}",
        runtime=runtime,
        image=f"/{value}.sif",
        local_directory=f"/{other}",
        preload=f"/{value}.py",
        env={value: other},
    )
    argv = executed_argv(request)
    assert argv[0] == runtime
    assert f"/{value}.sif" in argv
    image = argv.index(f"/{value}.sif")
    assert any(f"/{other}" in argument for argument in argv[:image])
    # After the image, because a variable may be named --preload.
    assert argv[argv.index("--preload", image) + 1] == f"/{value}.py"
    assert argv[-2:] == ["--name", "gcam-7_3"]


@given(literal)
def test_variables_of_the_local_directory_are_those_of_the_node(rest: str) -> None:
    request = JobRequest("gcam", "/logs", local_directory=f"$SLURM_ARRAY_JOB_ID/${{PATH}}/{rest}")
    argv = executed_argv(request)
    assert argv[argv.index("--local-directory") + 1] == f"7//usr/bin:/bin/{rest}"


def test_a_variable_that_the_node_lacks_is_named() -> None:
    script = script_of(JobRequest("gcam", "/logs", local_directory="$NOWHERE/x"))
    done = subprocess.run(["bash"], input=REACHED + script, text=True, capture_output=True)
    assert done.returncode
    assert "NOWHERE" in done.stderr


def test_a_failing_line_starts_no_worker() -> None:
    request = JobRequest("gcam", "/logs", prologue=("false",), python="/bin/echo")
    script = REACHED + script_of(request)
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_variables_are_inherited_and_never_written() -> None:
    request = JobRequest("gcam", "/logs", cpus=4, env={"TOKEN": "hush", "OMP_NUM_THREADS": "2"})
    argv = sbatch_argv(request, 1, job_name="scalable-r", comment="c")
    assert "hush" not in script_of(request) + " ".join(argv) + repr(request)
    environment = job_environment(request)
    assert environment["TOKEN"] == "hush"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["MKL_NUM_THREADS"] == "4"


CONTAINER = JobRequest(
    "gcam",
    "/logs",
    runtime="apptainer",
    image="/images/g cam.sif",
    mounts={"/data in": "/data", "/home/me/prepare.py": "/home/me/prepare.py"},
    gpus=1,
    preload="/home/me/prepare.py",
    tls=TlsFiles("/run/tls/ca", "/run/tls/cert", "/run/tls/key"),
)


def test_a_container_sees_its_mounts_its_scratch_and_its_keys() -> None:
    argv = executed_argv(CONTAINER)
    assert argv[:4] == ["apptainer", "exec", "--no-eval", "--nv"]
    assert [argv[i + 1] for i, argument in enumerate(argv) if argument == "--bind"] == [
        "/data in:/data",
        "/home/me/prepare.py:/home/me/prepare.py",
        "/tmp:/tmp",
        "/run/tls:/run/tls",
    ]
    image = argv.index("/images/g cam.sif")
    assert argv[image + 1 : image + 3] == ["python3", "-P"]


@pytest.mark.parametrize("runtime", ["podman", "docker"])
def test_a_worker_in_a_container_runs_as_the_jobs_user(runtime: str) -> None:
    argv = executed_argv(replace(CONTAINER, runtime=runtime))
    options = argv[: argv.index(CONTAINER.image or "")]
    assert f"--user={os.getuid()}:{os.getgid()}" in options
    assert ("--env=HOME=/tmp" in options) is bool(os.getuid())
    assert ("--userns=keep-id" in options) is (bool(os.getuid()) and runtime == "podman")


@pytest.mark.parametrize("runtime", ["podman", "docker"])
def test_a_container_can_read_its_mounts_and_share_its_memory(runtime: str) -> None:
    argv = executed_argv(replace(CONTAINER, runtime=runtime, memory=2**30))
    # SELinux would deny the mounts, and the default of 64 MiB is too small for MPI ranks.
    assert {"--security-opt=label=disable", f"--shm-size={2**30}"} <= set(argv)


@pytest.mark.parametrize("there", [True, False])
def test_podman_gets_a_runtime_directory_only_if_it_exists(tmp_path: Path, there: bool) -> None:
    directory = str(tmp_path if there else tmp_path / "none")
    printing = "exec() { printf '%s' \"${XDG_RUNTIME_DIR-unset}\"; }\n"
    script = script_of(replace(CONTAINER, runtime="podman"), "tls://h:1")
    done = subprocess.run(
        ["bash"],
        input=REACHED + printing + script,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": directory},
    )
    assert done.stdout == (directory if there else "unset")


def test_a_variable_enters_a_container_by_name_alone() -> None:
    request = JobRequest("a", "/l", runtime="podman", image="a:1", env={"TOKEN": "hush"})
    script = script_of(request)
    assert "--env TOKEN" in script
    assert "hush" not in script
    assert job_environment(request)["TOKEN"] == "hush"


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
def test_variables_of_a_container_affect_neither_slurm_nor_the_runtime(runtime: str) -> None:
    env = {"PATH": "/opt/gcam/bin", "SLURM_CONF": "x", "PYTHONPATH": "/opt/gcam/python"}
    environment = job_environment(JobRequest("a", "/l", runtime=runtime, image="a.sif", env=env))
    prefix = f"{runtime.upper()}ENV_"
    assert all(name.startswith(prefix) for name in environment)
    assert {name: environment[prefix + name] for name in env} == env
    assert environment[prefix + "PYTHONNOUSERSITE"] == "1"  # the home directory is mounted


def started_by_its_client(*command: str) -> subprocess.Popen[bytes]:
    """Start what the script starts in a container, with the test as the client that holds its standard input."""
    argv = executed_argv(replace(CONTAINER, runtime="podman"))
    shell = argv.index("sh")
    below = argv[shell : argv.index("python3")]
    return subprocess.Popen([*below, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_busy_worker_ends_with_the_client_of_its_container() -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(600)"
    with started_by_its_client(sys.executable, "-uc", deaf) as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == b"\n"
        assert worker.poll() is None
        worker.stdin.close()
        assert worker.wait(10) == -signal.SIGKILL


def test_a_worker_in_a_container_passes_on_its_exit_code_and_reads_no_input() -> None:
    with started_by_its_client("sh", "-c", "read -r _ || exit 7") as worker:
        assert worker.wait(10) == 7


@pytest.mark.parametrize(
    ("listens", "age", "ends"), [(True, 1000, False), (False, 1000, True), (False, None, True)]
)
def test_a_job_whose_client_has_died_ends_with_those_that_wait(
    tmp_path: Path, listens: bool, age: int | None, ends: bool
) -> None:
    """It takes both: nothing listens, and nothing has touched the file, or it has been removed."""
    client, log = tmp_path / "client", tmp_path / "cancelled"
    if age is not None:
        client.touch()
        os.utime(client, (time.time() - age,) * 2)
    scancel = tmp_path / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    scancel.chmod(0o755)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"tls://127.0.0.1:{server.getsockname()[1]}"
        script = script_of(JobRequest("gcam", str(tmp_path), python="/bin/true"), address)
        environ = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_NAME": "all-jobs-of-this-user",
            "SLURM_ARRAY_JOB_ID": "7",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(["bash"], input=script, text=True, env=environ, check=False)
    assert done.returncode == ends
    if ends:
        assert log.read_text().splitlines() == [
            f"--quiet --user={os.getuid()} --name=scalable-it's --state=PENDING",
            "--quiet --state=PENDING 7",
        ]
    else:
        assert not log.exists()


def test_a_site_that_drops_the_environment_is_named() -> None:
    script = "timeout() { :; }\n" + script_of(JobRequest("gcam", "/logs", python="/bin/echo"))
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, env=clean)
    assert (done.returncode, done.stdout) == (1, "")
    assert "sbatch of this site has not passed on the environment" in done.stderr
