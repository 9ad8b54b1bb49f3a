from __future__ import annotations

from typing import Any

import pytest

from scalable.errors import ValidationFailedError
from scalable.providers.slurm.site import SiteDefaults, read_site


def test_unset_keys_have_no_effect() -> None:
    config: dict[str, Any] = {"cores": None, "queue": None, "job-extra-directives": []}
    assert read_site(config) == SiteDefaults()


def test_keys_of_the_job_override_keys_of_the_worker() -> None:
    config = {"job-cpu": 2, "cores": 6, "job-mem": "1G", "memory": "24 GB"}
    site = read_site(config)
    assert (site.cpus, site.memory) == (2, 2**30)


def test_everything_that_cannot_be_read_is_reported_at_once() -> None:
    config = {
        "memory": "plenty",
        "death-timeout": "a while",
        "cores": "many",
        "job-extra-directives": ["--comment='x"],
        "queue": "short",
    }
    with pytest.raises(ValidationFailedError) as caught:
        read_site(config)
    found = {issue.path: issue.message for issue in caught.value.report.errors}
    assert found.keys() == {f"jobqueue.slurm.{key}" for key in config if key != "queue"}
    assert found["jobqueue.slurm.job-extra-directives"] == (
        '["--comment=\'x"] cannot be read (No closing quotation); '
        "correct it in dask-jobqueue's configuration"
    )


@pytest.mark.parametrize("port", [0, "0"])
def test_a_port_of_0_is_a_free_one(port: int | str) -> None:
    assert read_site({"scheduler-options": {"port": port, "host": "h"}}).scheduler == {"host": "h"}


def test_old_names_are_obeyed_where_the_new_ones_are_not_set() -> None:
    config = {
        "project": "climate",
        "job-extra": ["--exclusive"],
        "env-extra": ["ulimit -s unlimited"],
        "extra": ["--lifetime", 3300],
        "header-skip": ["-t "],
    }
    site = read_site(config)
    assert (site.account, site.directives, site.prologue, site.worker_arguments, site.skipped) == (
        "climate",
        ("--exclusive",),
        ("ulimit -s unlimited",),
        ("--lifetime", "3300"),
        ("-t ",),
    )
    (note,) = read_site({"project": "old", "account": "new"}, {"project": "/etc/dask/a.yaml"}).notes
    assert (note.path, note.file) == ("jobqueue.slurm.project", "/etc/dask/a.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("job-extra-directives", "--exclusive"),
        ("job-extra-directives", {"exclusive": None}),
        ("job-extra-directives", ["#SBATCH --exclusive"]),
        ("job-extra-directives", ["-C ssd --array=0-9"]),
        ("job-extra-directives", ["-M one,two"]),
        ("job-extra-directives", ["--clusters=all"]),
        ("job-extra-directives", ["--exclusive run.sh"]),
        ("job-extra-directives", ["-HJmine"]),
        ("job-script-prologue", "module load gcc"),
        ("job-directives-skip", "--mem"),
        ("worker-extra-args", "--lifetime 1h"),
        ("worker-extra-args", ["--nthreads", "4"]),
        ("scheduler-options", ["port"]),
        ("scheduler-options", {"host": "login1", "interface": "ib0"}),
        ("worker-extra-args", ["--resources GPU=1"]),
        ("worker-extra-args", ["--preload", "$HOME/x.py"]),
        ("death-timeout", ["60"]),
        ("death-timeout", " "),
        ("memory", True),
        ("memory", 24),
        ("memory", "16 kB"),
        ("python", "singularity exec image.sif python"),
        ("local-directory", "$(mktemp -d)"),
        ("local-directory", "${TMPDIR:=/x}"),
        ("account", ["a"]),
        ("cores", 0),
        ("cores", True),
        ("shebang", "#!/bin/tcsh"),
    ],
)
def test_a_value_of_another_shape_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        read_site({key: value})
    assert [issue.path for issue in caught.value.report.errors] == [f"jobqueue.slurm.{key}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("processes", 4),
        ("worker-command", "mine"),
        ("shared-temp-directory", "/x"),
        ("job-extra-directives", ["-J mine"]),
        ("job-extra-directives", ["-W"]),
        ("job-extra-directives", ["--signal B:USR1@60"]),
        ("job-directives-skip", ["-o"]),
        ("scheduler-options", {"idle_timeout": "1h"}),
        ("acount", "x"),
        ("walltime", 7200),
    ],
)
def test_what_has_no_effect_is_told(key: str, value: Any) -> None:
    (note,) = read_site({key: value}).notes
    assert (note.path, note.severity) == (f"jobqueue.slurm.{key}", "warning")


def test_a_cluster_among_the_directives_is_followed() -> None:
    site = read_site({"job-extra-directives": ["-M two", "--exclusive"]})
    assert (site.cluster, site.directives) == ("two", ("--exclusive",))
    site = read_site({"job-extra-directives": ["-HMtwo", "--cluster=three"]})
    assert (site.cluster, site.directives) == ("three", ("-H",))
