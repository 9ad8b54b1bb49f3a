from __future__ import annotations

import pytest

from scalable.cluster.port import Reason
from scalable.providers.cloud.gcp.api import GceError
from scalable.providers.cloud.gcp.refusals import explain_refusal, is_lasting

REFUSALS = [
    ("ZONE_RESOURCE_POOL_EXHAUSTED", "no machines", 503, Reason.CAPACITY, False),
    ("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded", 403, Reason.QUOTA, False),
    ("rateLimitExceeded", "too many", 403, Reason.QUOTA, False),
    ("accessNotConfigured", "Compute Engine API is off", 403, Reason.CREDENTIALS, True),
    ("forbidden", "Required 'compute.instances.create'", 403, Reason.CREDENTIALS, True),
    ("unauthenticated", "Reauthentication is needed", 401, Reason.CREDENTIALS, False),
    ("backendError", "try again", 503, Reason.NETWORK, False),
    ("invalid", "Invalid value for field 'zone'", 400, Reason.REFUSED, True),
]


@pytest.mark.parametrize(("code", "text", "status", "reason", "lasting"), REFUSALS)
def test_refusals(code: str, text: str, status: int, reason: Reason, lasting: bool) -> None:
    error = GceError("Instances.bulk_insert", code, text, status)
    why = explain_refusal(error)
    assert why.reason is reason
    assert text in why.summary
    assert is_lasting(error) is lasting
    if lasting:
        assert why.remedy
