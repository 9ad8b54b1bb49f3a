from __future__ import annotations

import pytest

from scalable.cluster.port import Reason
from scalable.providers.cloud.aws.api import AwsError
from scalable.providers.cloud.aws.refusals import (
    explain_refusal,
    explain_shortfall,
    is_lasting,
    is_there_already,
    is_transient,
)


@pytest.mark.parametrize(
    ("code", "text", "status", "reason", "lasting"),
    [
        ("AccessDeniedException", "not authorized", 400, Reason.CREDENTIALS, True),
        ("UnauthorizedOperation", "not authorized", 403, Reason.CREDENTIALS, True),
        ("ExpiredTokenException", "expired", 400, Reason.CREDENTIALS, False),
        ("InvalidSignatureException", "Signature expired: 2026", 400, Reason.CREDENTIALS, False),
        ("SignatureDoesNotMatch", "Signature not yet current", 403, Reason.CREDENTIALS, False),
        ("InvalidSignatureException", "does not match", 400, Reason.CREDENTIALS, True),
        ("ThrottlingException", "Rate exceeded", 400, Reason.QUOTA, False),
        ("RequestLimitExceeded", "Request limit exceeded", 503, Reason.QUOTA, False),
        ("ServiceUnavailable", "try later", 503, Reason.NETWORK, False),
        ("ClientException", "Capacity is unavailable at this time", 400, Reason.CAPACITY, False),
        (
            "ClientException",
            "You've reached the limit on the number of tasks you can run concurrently",
            400,
            Reason.QUOTA,
            False,
        ),
        ("ClientException", "No Fargate configuration exists", 400, Reason.REFUSED, True),
        ("InvalidParameterException", "no such subnet", 400, Reason.REFUSED, True),
    ],
)
def test_refusals(code: str, text: str, status: int, reason: Reason, lasting: bool) -> None:
    error = AwsError("RunTask", code, text, status)
    explanation = explain_refusal(error)
    assert explanation.reason is reason
    assert text in str(explanation)
    assert str(explanation).startswith("RunTask: ")
    assert is_lasting(error) is lasting


def test_a_denied_call_names_the_permission_and_who_lacks_it() -> None:
    text = "User: arn:aws:iam::1:user/me is not authorized to perform: ecs:RunTask"
    explanation = str(explain_refusal(AwsError("RunTask", "AccessDeniedException", text)))
    assert text in explanation
    assert "docs/providers/aws.md" in explanation


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Capacity is unavailable at this time", Reason.CAPACITY),
        ("RESOURCE:ENI", Reason.CAPACITY),
        ("You've reached the limit", Reason.QUOTA),
    ],
)
def test_shortfalls(said: str, reason: Reason) -> None:
    assert explain_shortfall(said).reason is reason


def test_a_clock_that_is_wrong_is_not_a_login_that_has_expired() -> None:
    error = AwsError("ListTasks", "InvalidSignatureException", "Signature not yet current: 2026")
    assert "clock" in explain_refusal(error).remedy
    error = AwsError("ListTasks", "ExpiredTokenException", "expired")
    assert "aws sso login" in explain_refusal(error).remedy


def test_what_passes_by_itself() -> None:
    assert is_transient(AwsError("StopTask", "ThrottlingException", "Rate exceeded"))
    assert is_transient(AwsError("StopTask", "ServerException", "", 500))
    assert not is_transient(AwsError("StopTask", "AccessDeniedException", ""))


def test_what_exists_already() -> None:
    assert is_there_already(AwsError("CreateRole", "EntityAlreadyExists", ""))
    assert not is_there_already(AwsError("CreateRole", "LimitExceeded", ""))
