"""Refusals of Compute Engine, explained. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalable.cluster.port import Explanation, Reason

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceError

__all__ = [
    "RATE",
    "explain_refusal",
    "is_expired",
    "is_lasting",
    "is_transient",
    "makes_nothing",
    "tells_of_all_attempts",
]

# https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation
_CAPACITY = (
    "RESOURCE_POOL_EXHAUSTED",
    "RESOURCE_AVAILABILITY",
    "resource_availability",
    "STOCKOUT",
)
RATE = ("RATE_LIMIT", "rateLimitExceeded", "RateLimitExceeded")
"""In the codes of requests that are too many at present."""
_QUOTA = ("QUOTA", "quotaExceeded", *RATE)
_ROLES = {
    "compute": "you need roles/compute.instanceAdmin.v1, and roles/iam.serviceAccountUser on the "
    "machines' service account",
    "secretmanager": "you need roles/secretmanager.admin, or the target's keys in metadata",
}
"""What is lacking where a service refuses a permission."""
_DISABLED = ("accessNotConfigured", "SERVICE_DISABLED", "has not been used in project")


def is_transient(error: GceError) -> bool:
    """Return whether it lies in the present state of Compute Engine: it is busy, or in trouble."""
    # Requests are limited by the minute, which is refused with status 403:
    # https://cloud.google.com/compute/api-quota
    too_many = any(word in error.code for word in RATE)
    return too_many or error.status == 429 or error.status >= 500


def is_expired(error: GceError) -> bool:
    """Return whether credentials have to be renewed."""
    return error.status == 401


def explain_refusal(error: GceError, service: str = "compute") -> Explanation:
    """Return why Compute Engine, or another service of Google's, has refused a call, and what to do.

    Examples
    --------
    >>> from scalable.providers.cloud.gcp.api import GceError
    >>> explain_refusal(GceError("Instances.bulk_insert", "ZONE_RESOURCE_POOL_EXHAUSTED", "...", 503)).reason
    <Reason.CAPACITY: 'capacity'>
    """
    text = str(error)
    if any(word in error.code for word in _CAPACITY):
        return Explanation(Reason.CAPACITY, text)
    if any(word in text for word in _DISABLED):
        remedy = f"run `gcloud services enable {service}.googleapis.com`"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if any(word in error.code for word in _QUOTA) or error.status == 429:
        remedy = (
            "ask for a larger quota in the console (IAM & Admin, Quotas), or start fewer workers"
        )
        return Explanation(Reason.QUOTA, text, remedy="" if is_transient(error) else remedy)
    if is_expired(error):
        remedy = "run `gcloud auth application-default login`"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if error.status == 403:
        return Explanation(Reason.CREDENTIALS, text, remedy=_ROLES.get(service, ""))
    if is_transient(error):
        return Explanation(Reason.NETWORK, text)
    return Explanation(Reason.REFUSED, text, remedy="correct the target's options")


def makes_nothing(error: GceError) -> bool:
    """Return whether an attempt to create machines that ends in this error has made none."""
    return explain_refusal(error).reason is not Reason.NETWORK


def tells_of_all_attempts(error: GceError) -> bool:
    """Return whether Compute Engine says this only where no earlier attempt with the same id has made machines.

    It limits requests, and checks credentials and the request itself, before it looks for the id.
    """
    reason = explain_refusal(error).reason
    return reason is Reason.CAPACITY or (reason is Reason.QUOTA and not is_transient(error))


def is_lasting(error: GceError) -> bool:
    """Return whether the same call would be refused again, whatever time passes."""
    # Credentials that have expired are renewed while a run goes on.
    reason = explain_refusal(error).reason
    return reason in (Reason.REFUSED, Reason.CREDENTIALS) and not is_expired(error)
