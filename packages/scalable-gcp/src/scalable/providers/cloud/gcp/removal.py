"""The removal of a run's machines, with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from scalable.cluster.port import Leftover
from scalable.errors import NativeTimeoutError, describe_error
from scalable.providers.cloud.gcp.api import GceError, GceUnreachableError
from scalable.providers.cloud.gcp.names import RUN
from scalable.providers.cloud.gcp.refusals import explain_refusal, is_expired, is_transient

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi

__all__ = ["delete_run"]

_POLL = 1.0
_ASK_AGAIN = 60.0
"""Seconds after which the deletion of a machine is requested again."""

_RENEWED_WITHIN = 30.0
"""Seconds for which a call is repeated that is refused because credentials have expired. Each reads them again, and
what stays behind costs money."""


async def delete_run(
    api: GceApi,
    zones: Sequence[str],
    run: str,
    limit: float,
    *,
    but: Collection[str] = (),
) -> list[Leftover]:
    """Delete the machines of a run, but for some; return those that exist after `limit` seconds.

    Parameters
    ----------
    api, zones, run : GceApi, sequence of str, str
        Compute Engine, the zones in which machines may be, and the run.
    limit : float
        Seconds.
    but : collection of str
        Names of machines that stay.
    """
    return await _Removal(api, zones, run, {*but}).finish(limit)


class _Removal:
    """The removal of a run's machines. What is refused of one machine or zone keeps no other one alive."""

    def __init__(self, api: GceApi, zones: Sequence[str], run: str, but: Set[str]) -> None:
        self._api, self._zones, self._run, self._but = api, zones, run, but
        self._asked: dict[str, float] = {}
        """When the deletion of each machine was requested."""
        self._refused: dict[str, str] = {}
        """Why machines may not be deleted."""
        self._unseen = ""
        """Why it is not known whether there are more machines, at present or for good."""
        self._passing = ""
        """What is wrong at present."""
        self._heard = _now()

    async def finish(self, limit: float) -> list[Leftover]:
        """Delete until nothing is left, or nothing more can be done; return what is left."""
        deadline = _now() + limit
        while True:
            self._unseen = self._passing = ""
            more = await self._is_creating()  # first: what it has made is listed then
            found = await self._find()
            await self._delete(found)
            done = found.keys() <= self._refused.keys() and not more and not self._passing
            if done or _now() > deadline:
                return [*self._leftovers(found)]
            await asyncio.sleep(_POLL)

    async def _is_creating(self) -> bool:
        try:
            return await self._api.is_creating(self._zones)
        except (GceError, GceUnreachableError, NativeTimeoutError) as error:
            if problem := self._lasting(error):
                self._unseen = f"it is not known whether more are being created: {problem}"
            return False

    async def _find(self) -> dict[str, str]:
        """Return the machines that are seen, each with its zone."""
        lists = await asyncio.gather(
            *(self._api.instances([zone], RUN, self._run) for zone in self._zones),
            return_exceptions=True,
        )
        found = {}
        for zone, some in zip(self._zones, lists, strict=True):
            if isinstance(some, BaseException):
                self._unseen = self._lasting(some) or self._passing
            else:
                self._heard = _now()
                found.update({each.name: zone for each in some if each.name not in self._but})
        return found

    async def _delete(self, found: Mapping[str, str]) -> None:
        now = _now()
        new = [name for name in found if now - self._asked.get(name, -_ASK_AGAIN) >= _ASK_AGAIN]
        new = [name for name in new if name not in self._refused]
        answers = await asyncio.gather(
            *(self._api.delete(found[name], name) for name in new), return_exceptions=True
        )
        for name, answer in zip(new, answers, strict=True):
            if answer is None:
                self._asked[name], self._heard = now, _now()
            elif problem := self._lasting(answer):
                self._refused[name] = problem

    def _lasting(self, error: BaseException) -> str:
        """Return why a call is refused, now and later; empty, and noted, where it may be otherwise the next time."""
        if isinstance(error, GceError):
            lasting = not is_transient(error)
            if is_expired(error):
                lasting = _now() - self._heard > _RENEWED_WITHIN
            problem = str(explain_refusal(error))
        elif isinstance(error, GceUnreachableError | NativeTimeoutError):
            lasting, problem = False, describe_error(error)
        else:
            raise error
        if not lasting:
            self._passing = problem
        return problem if lasting else ""

    def _leftovers(self, found: Mapping[str, str]) -> Iterator[Leftover]:
        remedy = f"`scalable reap {self._run}` removes it later"
        for name in sorted(found):
            problem = self._refused.get(name) or self._passing or "it is being deleted"
            yield Leftover("machine", name, f"{problem}; {remedy}")
        if problem := self._unseen or ("" if found else self._passing):
            what = "machines labelled", f"{RUN}={self._run}"
            yield Leftover(*what, f"{problem}; {remedy}", is_certain=False)


def _now() -> float:
    return asyncio.get_running_loop().time()
