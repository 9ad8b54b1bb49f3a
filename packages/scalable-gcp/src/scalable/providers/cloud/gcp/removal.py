"""The removal of a run's machines, with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
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
    now = asyncio.get_running_loop().time
    heard = now()
    deadline = heard + limit
    asked: dict[str, float] = {}
    left: list[str] = []

    async def delete(zone: str, name: str) -> None:
        await api.delete(zone, name)
        asked[name] = now()

    while True:
        try:
            more, unknown = await _is_creating(api, zones)  # first: what it has made is listed then
            found = {each.name: each for each in await api.instances(zones, RUN, run)}
            left = sorted(found.keys() - {*but})
            if not left and unknown:
                return [_unseen(run, unknown)]
            if not left and not more:
                return []
            new = [name for name in left if now() - asked.get(name, -_ASK_AGAIN) >= _ASK_AGAIN]
            await asyncio.gather(
                *(delete(found[name].zone.rpartition("/")[2], name) for name in new)
            )
            heard = now()
            problem, lasting = "it is being deleted", False
        except GceError as error:
            problem, lasting = str(explain_refusal(error)), not is_transient(error)
            if is_expired(error):
                lasting = now() - heard > _RENEWED_WITHIN
        except (GceUnreachableError, NativeTimeoutError) as error:
            problem, lasting = describe_error(error), False
        if lasting or now() > deadline:
            if not left:
                return [_unseen(run, problem)]
            why = f"{problem}; `scalable reap {run}` removes it later"
            return [Leftover("machine", name, why) for name in left]
        await asyncio.sleep(_POLL)


async def _is_creating(api: GceApi, zones: Sequence[str]) -> tuple[bool, str]:
    """Return whether machines are being created, and why that cannot be known. What is seen goes all the same."""
    try:
        return await api.is_creating(zones), ""
    except GceError as error:
        if is_transient(error) or is_expired(error):
            raise
        return False, f"it is not known whether more are being created: {explain_refusal(error)}"


def _unseen(run: str, problem: str) -> Leftover:
    why = f"{problem}; `scalable reap {run}` removes it later"
    return Leftover("machines labelled", f"{RUN}={run}", why, is_certain=False)
