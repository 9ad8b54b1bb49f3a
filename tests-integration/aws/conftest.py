"""An AWS account for the tests in this directory: see `aws_account`."""

from __future__ import annotations

from collections.abc import Iterator

import aws_account
import pytest
from aws_account import AwsAccount
from slurm_site import wait_until


@pytest.fixture(scope="session")
def aws_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsAccount]:
    """The account of all tests."""
    with (
        pytest.MonkeyPatch.context() as patch,
        aws_account.provide(tmp_path_factory.mktemp("aws"), patch) as account,
    ):
        yield account


@pytest.fixture
def used_account(aws_site: AwsAccount) -> AwsAccount:
    """A new account, in which a test may leave what it likes."""
    aws_site.renew()
    return aws_site


@pytest.fixture
def account(used_account: AwsAccount) -> Iterator[AwsAccount]:
    """A new account, in which nothing may be left of a test."""
    yield used_account
    wait_until(lambda: not used_account.inventory(), "nothing is left", timeout=30)
