"""Removing the objects of a run, with a limit, and without the operator if need be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import Leftover
from scalable.errors import describe_error
from scalable.providers.kubernetes.api import ApiError, ApiUnreachableError
from scalable.providers.kubernetes.names import DASK_COMPONENT, RUN, selector
from scalable.providers.kubernetes.pods import has_ended

if TYPE_CHECKING:
    from scalable.providers.kubernetes.api import KubernetesApi

__all__ = ["SINGULAR", "remove_run", "remove_workers"]

_ALL_KINDS = ("daskclusters", "daskworkergroups", "deployments", "services", "secrets", "pods")
SINGULAR = {
    "jobs": "Job",
    "daskclusters": "DaskCluster",
    "daskworkergroups": "DaskWorkerGroup",
    "deployments": "Deployment",
    "services": "Service",
    "secrets": "Secret",
    "pods": "Pod",
}

_POLL = 0.25
_OPERATOR_PATIENCE = 10.0
"""Seconds after which the operator's finalizer of a DaskCluster is removed in its place."""

Found = Mapping[str, Sequence[Mapping[str, Any]]]


async def remove_workers(api: KubernetesApi, run: str, limit: float) -> list[Leftover]:
    """Remove the worker groups of a run and their workers; return what is left after `limit` seconds.

    Its scheduler stays.
    """
    workers = {
        "daskworkergroups": selector({RUN: run}),
        "deployments": selector({RUN: run, DASK_COMPONENT: "worker"}),
        "pods": selector({RUN: run, DASK_COMPONENT: "worker"}),
    }
    return await _remove(api, run, workers, limit)


async def remove_run(api: KubernetesApi, run: str, limit: float) -> list[Leftover]:
    """Remove everything that belongs to a run; return what is left after `limit` seconds."""
    return await _remove(api, run, dict.fromkeys(_ALL_KINDS, selector({RUN: run})), limit)


async def _remove(
    api: KubernetesApi, run: str, selectors: Mapping[str, str], limit: float
) -> list[Leftover]:
    """Delete what is found of these kinds, again and again, until nothing is found."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: Found = {}
    problem = ""
    deletions = _Deletions(api)
    while True:
        try:
            found, forbidden = await _find(api, selectors)
            if not any(found.values()):
                return [*_leftovers(run, {}, forbidden)] if forbidden else []
            await deletions.request(found)
            if loop.time() - began > _OPERATOR_PATIENCE:
                if deletions.are_refused(found):
                    return [*_leftovers(run, found, deletions.refusal)]
                await _remove_finalizers(api, found.get("daskclusters", ()))
            problem = deletions.refusal
        except (ApiError, ApiUnreachableError) as error:
            problem = describe_error(error)
            if isinstance(error, ApiError) and error.code == 403:  # forbidden, now and later
                return [*_leftovers(run, found, problem)]
        if loop.time() - began > limit:
            return [*_leftovers(run, found, problem)]
        await asyncio.sleep(_POLL)


async def _find(api: KubernetesApi, selectors: Mapping[str, str]) -> tuple[Found, str]:
    """Return what there is of each kind that may be listed, and why another one may not; empty if all may."""
    lists = await asyncio.gather(
        *(api.list(kind, labels) for kind, labels in selectors.items()), return_exceptions=True
    )
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    forbidden = ""
    for kind, some in zip(selectors, lists, strict=True):
        if isinstance(some, ApiError) and some.code == 403:  # now and later
            forbidden = describe_error(some)
        elif isinstance(some, ApiError) and some.code == 404:  # the operator is not installed
            found[kind] = ()
        elif isinstance(some, BaseException):
            raise some
        else:
            found[kind] = [each for each in some if kind != "pods" or not has_ended(each)]
    return found, forbidden


class _Deletions:
    """Deletes each object once; pods go with their Deployments.

    One that may not be deleted keeps no others: much of a run goes with its DaskCluster.

    Attributes
    ----------
    refusal : str
        Why an object may not be deleted, now and later; empty if all may.
    """

    def __init__(self, api: KubernetesApi) -> None:
        self.refusal = ""
        self._api = api
        self._asked: set[str] = set()
        self._refused: set[str] = set()

    async def request(self, found: Found) -> None:
        """Delete what is new.

        Raises
        ------
        ApiError, ApiUnreachableError
            One could not be deleted at present; all others were tried.
        """
        todo = [
            (kind, each["metadata"]["name"], each["metadata"]["uid"])
            for kind, objects in found.items()
            if kind != "pods"
            for each in objects
            if each["metadata"]["uid"] not in self._asked
        ]
        answers = await asyncio.gather(
            *(self._api.delete(kind, name) for kind, name, _ in todo), return_exceptions=True
        )
        problem: BaseException | None = None
        for (_, _, uid), answer in zip(todo, answers, strict=True):
            if isinstance(answer, ApiError) and answer.code == 403:
                self.refusal = describe_error(answer)
                self._refused.add(uid)
            elif answer is not None:
                problem = answer
                continue
            self._asked.add(uid)
        if problem is not None:
            raise problem

    def are_refused(self, found: Found) -> bool:
        """Return whether nothing is left but what may not be deleted, and pods of it."""
        return all(
            each["metadata"]["uid"] in self._refused
            for kind, objects in found.items()
            if kind != "pods"
            for each in objects
        ) and bool(self.refusal)


async def _remove_finalizers(api: KubernetesApi, clusters: Iterable[Mapping[str, Any]]) -> None:
    for cluster in clusters:
        metadata = cluster["metadata"]
        if "deletionTimestamp" in metadata and metadata.get("finalizers"):
            try:
                await api.patch(
                    "daskclusters", metadata["name"], {"metadata": {"finalizers": None}}
                )
            except ApiError as error:
                if error.code != 404:  # it has gone meanwhile
                    raise


def _leftovers(run: str, found: Found, problem: str) -> Iterable[Leftover]:
    remedy = f"`scalable reap {run}` removes it later"
    why = f"{problem or 'Kubernetes has not removed it yet'}; {remedy}"
    named = [
        (SINGULAR[kind], each["metadata"]["name"])
        for kind, objects in found.items()
        for each in objects
    ]
    for kind, name in named:
        yield Leftover(kind, name, why)
    if not named:
        yield Leftover("objects labelled", selector({RUN: run}), why, is_certain=False)
