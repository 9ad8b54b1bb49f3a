"""Closing: many workers at once, and a network that AWS detaches late."""

from __future__ import annotations

import time

from aws_account import AwsAccount, Image
from aws_clusters import cluster
from slurm_site import wait_until


def test_three_hundred_tasks_close_within_a_minute(account: AwsAccount) -> None:
    account.images["stub"] = Image(command=["sleep", "600"])
    with cluster(account, {"gcam": {"image": "stub"}}, image="image") as handle:
        handle.backend.scale_groups({"gcam": 300})
        wait_until(lambda: len(account.tasks) == 301, "all tasks are there", 240)
        began = time.monotonic()
    assert time.monotonic() - began < 60


def test_closing_waits_for_the_network_and_the_loop_goes_on(account: AwsAccount) -> None:
    gaps: list[float] = []
    with cluster(account) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        account.conditions.interfaces_linger = 60
        loop, last = handle.backend.loop, time.monotonic()

        def tick() -> None:
            nonlocal last
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            loop.call_later(0.1, tick)

        loop.add_callback(tick)
        began = time.monotonic()
    took = time.monotonic() - began
    assert 55 < took < 120
    assert sum(gaps) > 55
    assert max(gaps) < 5
