"""The steps of a build, each of which can be made to fail."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["FAILURE", "NativeCall", "calls_made", "failing_call", "known_steps"]


FAILURE = "the suite has this call fail"
"""The message of the exceptions."""


@dataclass(frozen=True)
class NativeCall:
    """A function that a build calls, for `ProviderConformance.native_calls`.

    Parameters
    ----------
    owner : object
        The class or the module in which it is looked up when it is called.
    name : str
        Its name there.
    error : type of Exception
        What it raises. By default what nothing in particular handles.
    """

    owner: Any
    name: str
    error: type[Exception] = RuntimeError

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


def known_steps() -> Sequence[NativeCall]:
    """Return steps of a build that many providers have, and those of the engine, which all have."""
    # Validating and planning import no Dask.
    from distributed import Scheduler

    from scalable.cluster import link
    from scalable.cluster.remote import RemoteHost
    from scalable.providers.tls import Credentials

    return (
        NativeCall(tempfile, "mkdtemp"),
        NativeCall(Credentials, "write"),
        NativeCall(Scheduler, "__init__"),  # of a scheduler in this process
        NativeCall(RemoteHost, "start"),
        # The first call to the scheduler has been answered.
        NativeCall(link, "check_scheduler_versions"),
    )


@contextmanager
def calls_made(steps: Sequence[NativeCall]) -> Iterator[dict[NativeCall, int]]:
    """Count how often each of these is called."""
    counts = dict.fromkeys(steps, 0)

    def count(step: NativeCall) -> Callable[[], None]:
        def counting() -> None:
            counts[step] += 1

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for step in steps:
            _call_before(patch, step, count(step))
        yield counts


@contextmanager
def failing_call(step: NativeCall, which: int) -> Iterator[None]:
    """Have the call of this number (the first is 1) fail, in place of what it does."""
    number = 0

    def fail() -> None:
        nonlocal number
        number += 1
        if number == which:
            raise step.error(FAILURE)

    with pytest.MonkeyPatch.context() as patch:
        _call_before(patch, step, fail)
        yield


def _call_before(patch: pytest.MonkeyPatch, step: NativeCall, before: Callable[[], None]) -> None:
    original = getattr(step.owner, step.name)

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        before()
        return await original(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        before()
        return original(*args, **kwargs)

    patch.setattr(
        step.owner, step.name, call_async if inspect.iscoroutinefunction(original) else call
    )
