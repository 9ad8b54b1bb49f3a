"""Refusals of the API server, explained. Pure functions."""

from __future__ import annotations

from scalable.cluster.port import Explanation, Reason
from scalable.providers.kubernetes.api import ApiError

__all__ = ["explain_refusal", "is_expired", "is_lasting", "is_transient", "is_unclear"]

INSTALL = (
    "install the Dask operator: helm install --repo https://helm.dask.org "
    "--create-namespace -n dask-operator --generate-name dask-kubernetes-operator"
)


def explain_refusal(error: ApiError, namespace: str) -> Explanation:
    """Return why the API server has refused to create an object, and what to do.

    Examples
    --------
    >>> explain_refusal(ApiError(404, "404 page not found"), "models").remedy.partition(":")[0]
    'install the Dask operator'
    >>> explain_refusal(ApiError(403, 'secrets is forbidden: exceeded quota: q'), "models").reason
    <Reason.QUOTA: 'quota'>
    """
    text = str(error)
    if error.code == 404 and "namespaces" in text:
        remedy = f"create the namespace {namespace!r}, or set the target's namespace to another"
        return Explanation(Reason.REFUSED, text, remedy=remedy)
    if error.code == 404:
        summary = (
            "the cluster has no DaskClusters: the Dask operator's definitions are not installed"
        )
        return Explanation(Reason.REFUSED, summary, native=text, remedy=INSTALL)
    if error.code == 403 and "exceeded quota" in text:
        return Explanation(Reason.QUOTA, text, remedy="ask for a larger quota, or request less")
    if is_expired(error):
        remedy = "log in again; `kubectl auth whoami` must work"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if error.code == 403:
        remedy = "ask for this permission; docs/providers/kubernetes.md has the Role that suffices"
        return Explanation(Reason.CREDENTIALS, text, remedy=remedy)
    if error.code in (400, 422):
        return Explanation(Reason.REFUSED, text, remedy="correct the target's options")
    return Explanation(Reason.NETWORK, text)


def is_lasting(error: ApiError) -> bool:
    """Return whether the same request would be refused again, whatever time passes."""
    # Credentials that have expired are renewed while a run goes on.
    reason = explain_refusal(error, "").reason
    return reason in (Reason.REFUSED, Reason.CREDENTIALS) and not is_expired(error)


def is_expired(error: ApiError) -> bool:
    """Return whether credentials have to be renewed."""
    return error.code == 401


def is_transient(error: ApiError) -> bool:
    """Return whether it lies in the present state of the server: it is busy, or in trouble."""
    return error.code == 429 or is_unclear(error)


def is_unclear(error: ApiError) -> bool:
    """Return whether the server may have done what it was asked for, such as where its store answers late."""
    return error.code >= 500
