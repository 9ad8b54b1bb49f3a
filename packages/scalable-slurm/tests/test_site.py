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
