from __future__ import annotations

from scalable.providers.slurm.request import JobRequest
from scalable.providers.slurm.sbatch import sbatch_argv


def sbatch(request: JobRequest, n: int = 1) -> list[str]:
    return sbatch_argv(request, n, job_name="scalable-r", comment="c")


def test_options_that_are_not_set_are_left_to_slurm() -> None:
    argv = sbatch(JobRequest("gcam", "/logs"))
    for option in ("mem", "time", "gres", "partition", "account", "qos", "constraint"):
        assert not any(argument.startswith(f"--{option}=") for argument in argv)


def test_memory_and_walltime_are_rounded_up_to_slurms_units() -> None:
    argv = sbatch(JobRequest("gcam", "/logs", memory=8 * 10**9, walltime=61))
    assert "--mem=7630M" in argv
    assert "--time=2" in argv


def test_each_option_is_one_argument_of_sbatch() -> None:
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
    argv = sbatch(request, n=48)
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
    } <= set(argv)


def test_options_that_a_site_does_not_accept_are_left_out() -> None:
    argv = sbatch(JobRequest("gcam", "/logs", memory=2**30, skipped=("--mem",)))
    assert not any(argument.startswith("--mem") for argument in argv)


def test_gpus_and_other_generic_resources_are_requested_together() -> None:
    """Of two such options, sbatch obeys the last."""
    argv = sbatch(JobRequest("gcam", "/logs", gpus=2, directives=("--gres=lscratch:100",)))
    assert [each for each in argv if "--gres" in each] == ["--gres=gpu:2,lscratch:100"]
    argv = sbatch(JobRequest("gcam", "/logs", gpus=2, directives=("--gres=gpu:a100:2",)))
    assert [each for each in argv if "--gres" in each][-1] == "--gres=gpu:a100:2"
