"""Refusals of AWS, explained. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalable.cluster.port import Explanation, Reason

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsError

__all__ = [
    "explain_refusal",
    "explain_shortfall",
    "is_denied",
    "is_expired",
    "is_lasting",
    "is_missing",
    "is_there_already",
    "is_transient",
]

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html,
# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/CommonErrors.html
_THROTTLED = frozenset(
    {
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded"),
        *("TooManyRequestsException", "RequestThrottled", "RequestThrottledException"),
        *("LimitExceededException", "ResourceCountExceeded", "EC2ThrottledException"),
        *("PriorRequestNotComplete", "SlowDown", "TooManyUpdates"),
    }
)
_DENIED = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"),
        # Of the role that EC2 needs for spare capacity, on its first use in an account.
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
    }
)
_NOT_ACCEPTED = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "AuthFailure"),
        *("InvalidClientTokenId", "UnrecognizedClientException", "InvalidSignatureException"),
        *("SignatureDoesNotMatch", "IncompleteSignature", "OptInRequired"),
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_UNSIGNED = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})
_OUTDATED = ("Signature expired", "Signature not yet current")
_CAPACITY = frozenset(
    {
        *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity"),
        *("InsufficientReservedInstanceCapacity", "InsufficientFreeAddressesInSubnet"),
        *("InsufficientVolumeCapacity", "InsufficientAddressCapacity"),
        *("SpotMaxPriceTooLow", "Unsupported"),
    }
)
_QUOTA = frozenset(
    {
        *("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"),
        *("VolumeLimitExceeded", "SecurityGroupLimitExceeded", "LimitExceeded"),
        *("RulesPerSecurityGroupLimitExceeded", "ParameterLimitExceeded"),
        *("NetworkInterfaceLimitExceeded", "PendingVerification"),
    }
)
_THERE = frozenset(
    {
        *("EntityAlreadyExists", "ResourceAlreadyExistsException", "ParameterAlreadyExists"),
        *("InvalidGroup.Duplicate", "InvalidPermission.Duplicate"),
    }
)
_MISSING = frozenset(
    {
        *("NoSuchEntity", "ResourceNotFoundException", "ClusterNotFoundException"),
        *("ParameterNotFound", "InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"),
        *("InvalidInstanceID.NotFound", "InvalidNetworkInterfaceID.NotFound"),
    }
)
_ENDED = "IdempotentInstanceTerminated"
"""The code of a call to start instances that is repeated when these have ended."""


def is_missing(error: AwsError) -> bool:
    """Return whether what a call is about does not exist."""
    return error.code in _MISSING


def is_there_already(error: AwsError) -> bool:
    """Return whether what a call was to create exists already, such as from a call whose answer was lost."""
    # An instance profile takes one role, and a second call is refused as one too many.
    filled = error.operation == "AddRoleToInstanceProfile" and error.code == "LimitExceeded"
    return filled or error.code in _THERE


def is_denied(error: AwsError) -> bool:
    """Return whether a permission is lacking."""
    return error.code in _DENIED


def is_expired(error: AwsError) -> bool:
    """Return whether credentials have to be renewed."""
    return _is_outdated(error) or error.code in _EXPIRED


def _is_outdated(error: AwsError) -> bool:
    """Return whether a call was signed at another time than AWS has, which it refuses like a wrong key.

    That is before the machine slept, or by a clock that is wrong.
    """
    return error.code in _UNSIGNED and any(each in error.text for each in _OUTDATED)


def is_transient(error: AwsError) -> bool:
    """Return whether it lies in the present state of AWS: it is busy, or in trouble."""
    return error.code in _THROTTLED or error.status >= 500


def explain_refusal(error: AwsError) -> Explanation:
    """Return why AWS has refused a call, and what to do.

    Examples
    --------
    >>> from scalable.providers.cloud.aws.api import AwsError
    >>> explain_refusal(AwsError("RunTask", "ThrottlingException", "Rate exceeded")).reason
    <Reason.QUOTA: 'quota'>
    >>> print(explain_refusal(AwsError("RunTask", "ClientException", "Capacity is unavailable at this time")))
    RunTask: ClientException: Capacity is unavailable at this time
    """
    text, code = str(error), error.code
    if code in _DENIED:
        remedy = "ask for this permission; docs/providers/aws.md has the policy that suffices"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if _is_outdated(error):
        remedy = "set the clock of this machine"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if is_expired(error):
        remedy = "renew your credentials, for example by `aws sso login`"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if code in _NOT_ACCEPTED:
        remedy = "check credentials and region: `aws sts get-caller-identity`"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if code == _ENDED:
        return Explanation(Reason.EXITED, text)
    if code in _CAPACITY or "apacity is unavailable" in text:
        return Explanation(Reason.CAPACITY, text)
    if code in _THROTTLED:
        return Explanation(Reason.QUOTA, text)
    if code in _QUOTA or ("limit" in error.text and "oncurren" in error.text):
        remedy = "ask for a larger quota in the Service Quotas console, or start fewer workers"
        return Explanation(Reason.QUOTA, text, remedy=remedy)
    if error.status >= 500:
        return Explanation(Reason.NETWORK, text)
    return Explanation(Reason.REFUSED, text, remedy="correct the target's options")


def is_lasting(error: AwsError) -> bool:
    """Return whether the same call would be refused again, whatever time passes."""
    # Credentials that have expired are renewed while a run goes on.
    reason = explain_refusal(error).reason
    return reason in (Reason.REFUSED, Reason.CREDENTIALS) and not is_expired(error)


def explain_shortfall(reason: str, detail: str = "") -> Explanation:
    """Return why a launch created fewer tasks than requested, from what RunTask says of those.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html

    Examples
    --------
    >>> explain_shortfall("Capacity is unavailable at this time").reason
    <Reason.CAPACITY: 'capacity'>
    """
    text = f"{reason}: {detail}" if detail else reason
    if "apacity" in text or reason.startswith("RESOURCE"):
        return Explanation(Reason.CAPACITY, text)
    return Explanation(Reason.QUOTA, text)
