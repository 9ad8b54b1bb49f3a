"""A scheduler that nobody drives any more."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time
from typing import Any

import dask
import pytest
from distributed import Client
from distributed.core import Status

from scalable.cluster.plugin.presence import Presence

Until = Callable[..., None]


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, presence: Presence, seconds: float, *, step: float = 1.0) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            presence.check()


def is_open(host: Any) -> bool:
    return bool(host.scheduler.status is Status.running)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_scheduler_without_controller_and_clients_closes_itself(
    host: Any, clock: Clock, until: Until
) -> None:
    presence = Presence(host.scheduler, orphan_timeout=900, clock=clock)
    clock.run(presence, 899)
    presence.note_controller()
    clock.run(presence, 899)
    assert is_open(host)
    clock.run(presence, 3)
    until(lambda: host.scheduler.status is Status.closed)


def test_a_connected_client_is_enough(host: Any, clock: Clock, until: Until) -> None:
    presence = Presence(host.scheduler, orphan_timeout=900, clock=clock)
    with Client(host):
        clock.run(presence, 5000)
    until(lambda: not host.scheduler.client_comms)
    clock.run(presence, 899)
    assert presence.silence == 899


def test_time_in_which_the_scheduler_did_not_run_does_not_count(host: Any, clock: Clock) -> None:
    presence = Presence(host.scheduler, orphan_timeout=900, clock=clock)
    clock.run(presence, 8 * 3600, step=3600)
    assert presence.silence < 60


def test_0_is_never(host: Any, clock: Clock) -> None:
    clock.run(Presence(host.scheduler, orphan_timeout=0, clock=clock), 100_000)
    assert host.scheduler.status is Status.running


def test_timeouts_of_a_configuration_end_no_session_that_is_in_use(
    host: Any, clock: Clock, until: Until
) -> None:
    host.scheduler.idle_timeout, host.scheduler.no_workers_timeout = 60.0, 30.0
    presence = Presence(host.scheduler, orphan_timeout=900, clock=clock)
    for _ in range(1000):
        presence.note_controller()
        clock.run(presence, 1)
        host.scheduler.check_idle()
    assert is_open(host)
    assert host.scheduler.no_workers_timeout is None
    # An idle timeout that is shorter counts from when nobody is there any more.
    clock.run(presence, 61)
    until(lambda: host.scheduler.status is Status.closed)


def test_a_controller_keeps_its_scheduler(
    host: Any, start: Callable[..., Any], until: Until
) -> None:
    host.scheduler.idle_timeout = 0.01
    cluster = start("gcam", orphan_timeout=5)
    presence = host.scheduler.plugins["scalable-groups"].presence
    began = monotonic()
    until(lambda: presence._checked_at > began + 7)
    assert presence.silence < 5
    assert cluster.groups["gcam"].reason is None
    assert dask.config.get("distributed.scheduler.idle-timeout") is None


def test_who_asks_whether_it_is_idle_learns_since_when_nobody_drives_it(
    host: Any, clock: Clock
) -> None:
    presence = Presence(host.scheduler, orphan_timeout=900, clock=clock)
    began = time()
    clock.run(presence, 300)
    silent_since = host.scheduler.check_idle()
    assert began - 301 <= silent_since <= time() - 300
    presence.note_controller()
    assert began <= host.scheduler.check_idle() <= time()
