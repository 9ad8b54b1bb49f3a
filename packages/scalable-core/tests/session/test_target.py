import pytest

from scalable.session import choose_target


@pytest.mark.parametrize(
    ("providers", "environ", "chosen"),
    [
        ({"aws": "aws", "hpc": "slurm", "laptop": "local"}, {}, "laptop"),
        ({"aws": "aws", "laptop": "local", "local": "local"}, {}, "local"),
        ({"laptop": "local", "desk": "local"}, {}, "laptop"),
        ({"local": "aws", "laptop": "local"}, {}, "laptop"),
        ({"aws": "aws", "gcp": "gcp"}, {}, "aws"),
        ({"laptop": " Local "}, {}, "laptop"),
        ({"laptop": "local", "hpc": "SLURM"}, {"SLURM_JOB_ID": "1"}, "hpc"),
        ({"laptop": "local", "hpc": "slurm", "hpc2": "slurm"}, {"SLURM_JOB_ID": "1"}, "hpc"),
        ({"laptop": "local", "aws": "aws"}, {"SLURM_JOB_ID": "1"}, "laptop"),
        ({"laptop": "local", "hpc": "slurm"}, {"SLURM_JOB_ID": ""}, "laptop"),
        ({}, {}, None),
    ],
)
def test_auto_is_slurm_in_a_slurm_job_then_local_then_the_first(
    providers: dict[str, str], environ: dict[str, str], chosen: str | None
) -> None:
    assert choose_target(providers, environ) == chosen
