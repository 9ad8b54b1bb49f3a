"""Scale-in loses nothing and repeats nothing, on real schedulers with real workers."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from distributed import Client, Future, wait

from scalable.cluster import AdaptivePolicy, GroupedCluster, Pace
from scalable.cluster.port import GroupSpec

Start = Callable[..., GroupedCluster]
Until = Callable[..., None]

SLOTS = {"a": 1, "b": 2}
GROUPS = [GroupSpec(tag, slots) for tag, slots in SLOTS.items()]


class Log:
    """A log of task starts, written by the tasks themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def work(self, name: str) -> Callable[..., int]:
        """Return a function that logs its start, sleeps, and adds."""
        path = self.path

        # A function of a function travels by value: worker processes cannot import this module.
        def work(seconds: float, *inputs: int) -> int:
            with path.open("a") as file:
                file.write(f"{name}\n")
            time.sleep(seconds)
            return 1 + sum(inputs)

        return work

    def starts(self) -> Counter[str]:
        return Counter(self.path.read_text().splitlines() if self.path.exists() else ())


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "starts")


class Flow:
    """An unending supply of tasks on two groups, some with dependencies, some with tuples as keys."""

    def __init__(self, client: Client, log: Log, random: Random, longest: float) -> None:
        self.client, self.log, self.random, self.longest = client, log, random, longest
        self.open: deque[tuple[Future[int], int]] = deque()
        self.submitted: Counter[str] = Counter()

    def add(self) -> None:
        turn = len(self.submitted)
        left = self._submit(f"left-{turn}", 1)
        right = self._submit(f"right-{turn}", 1)
        self._submit(f"sum-{turn}", 3, left, right)

    def _submit(self, name: str, value: int, *inputs: Future[int]) -> Future[int]:
        future = self.client.submit(
            self.log.work(name),
            *(self.random.uniform(0.0, self.longest), *inputs),
            key=self.random.choice([name, ("tuple", name)]),
            resources={self.random.choice([*SLOTS]): 1},
        )
        self.submitted[name] += 1
        self.open.append((future, value))
        return future

    def ready(self, leave: int) -> bool:
        return all(future.done() for future, _ in [*self.open][: max(0, len(self.open) - leave)])

    def collect(self, leave: int = 0) -> None:
        """Check the oldest results, and let go of them."""
        while len(self.open) > leave:
            future, value = self.open.popleft()
            assert future.result(timeout=60) == value


def drained(cluster: GroupedCluster) -> int:
    return sum(event.text.startswith("draining") for event in cluster.events)


def test_scaling_at_random_repeats_no_task_and_loses_no_result(start: Start, log: Log) -> None:
    random = Random(20_26)
    cluster = start(*GROUPS, pace=Pace(tick=0.01, poll=0.05))
    with Client(cluster) as client:
        flow = Flow(client, log, random, longest=0.05)
        while drained(cluster) < 500:
            flow.add()
            cluster.scale_groups({tag: random.randint(0, 3) for tag in SLOTS})
            time.sleep(random.uniform(0.0, 0.04))  # any moment in the life of a task will do
            if not flow.ready(leave=60):
                cluster.scale_groups(dict.fromkeys(SLOTS, 3))
            flow.collect(leave=60)
        cluster.scale_groups(dict.fromkeys(SLOTS, 2))
        flow.collect()
    assert log.starts() == flow.submitted
    assert sum(event.text.endswith("is back in service") for event in cluster.events) > 20


def test_worker_processes_drain_as_safely(start_processes: Start, log: Log, until: Until) -> None:
    random = Random(20_26)
    cluster = start_processes(*GROUPS)
    with Client(cluster) as client:
        flow = Flow(client, log, random, longest=0.4)
        for turn in range(12):
            cluster.scale_groups({"a": 1, "b": 1})
            begun, before = log.starts().total(), drained(cluster)
            flow.add()
            until(lambda begun=begun: log.starts().total() > begun)
            tag = random.choice([*SLOTS])
            cluster.wait_for_group(tag, timeout=30)
            cluster.scale_groups({tag: 0})
            until(lambda before=before: drained(cluster) > before)
            if turn % 2:
                until(lambda tag=tag: not cluster.groups[tag].draining)
        cluster.scale_groups(dict.fromkeys(SLOTS, 1))
        flow.collect()
    assert log.starts() == flow.submitted


# -- When no worker is left


def test_results_that_a_client_keeps_hold_one_worker(start: Start, log: Log, until: Until) -> None:
    cluster = start(*GROUPS)
    cluster.scale_groups({"a": 2, "b": 1})
    with Client(cluster) as client:
        futures = [
            client.submit(log.work(f"{tag}-{i}"), 0, resources={tag: 1})
            for tag in SLOTS
            for i in range(10)
        ]
        wait(futures, timeout=30)
        cluster.scale_groups({"a": 0, "b": 0})
        until(lambda: sum(group.draining for group in cluster.groups.values()) == 1)
        until(lambda: sum(group.holding for group in cluster.groups.values()) == 20)
        assert client.gather(futures) == [1] * 20
        # New workers relieve the one that holds on.
        cluster.scale_groups({"b": 1})
        until(lambda: not any(g.draining or g.holding for g in cluster.groups.values()))
        assert cluster.groups["b"].running == 1
        assert client.gather(futures) == [1] * 20
        cluster.scale_groups({"b": 0})
        until(lambda: cluster.groups["b"].holding == 20)
        del futures
        until(lambda: not cluster.groups["b"].draining)
    assert log.starts() == Counter({f"{tag}-{i}": 1 for tag in SLOTS for i in range(10)})


def test_a_worker_that_holds_results_is_the_first_to_be_resumed(
    start: Start, log: Log, until: Until
) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    with Client(cluster) as client:
        future = client.submit(log.work("once"), 0, resources={"a": 1})
        future.result(timeout=30)
        (name,) = cluster.groups["a"].workers
        cluster.scale_groups({"a": 0})
        until(lambda: cluster.groups["a"].holding == 1)
        cluster.scale_groups({"a": 1})
        cluster.wait_for_group("a", timeout=30)
        assert cluster.groups["a"].workers == (name,)
        assert client.submit(log.work("more"), 0, future, resources={"a": 1}).result(30) == 2
    assert log.starts() == {"once": 1, "more": 1}


def test_results_are_held_for_a_bounded_time(start: Start, log: Log, until: Until) -> None:
    cluster = start("a", pace=Pace(tick=0.02, poll=0.05, hold_timeout=0.2))
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    with Client(cluster) as client:
        future = client.submit(log.work("twice"), 0, resources={"a": 1})
        future.result(timeout=30)
        cluster.scale_groups({"a": 0})
        told = {"a-1 held 1 results for 0.2 s; they are lost now", "a-1 has left"}
        until(lambda: told <= {event.text for event in cluster.events})
        cluster.scale_groups({"a": 1})
        assert future.result(timeout=30) == 1, "Dask computes it again"
    assert log.starts() == {"twice": 2}


def test_an_adaptive_group_scales_from_zero_and_back(start: Start, log: Log, until: Until) -> None:
    cluster = start("a", policy=AdaptivePolicy(target_duration=0.2, scale_in_delay=0.2))
    cluster.adapt_groups({"a": (0, 3)})
    with Client(cluster) as client:
        for batch in range(3):
            futures = [
                client.submit(
                    log.work(f"{batch}-{i}"), 0.1, key=f"a.w-{batch}-{i}", resources={"a": 1}
                )
                for i in range(10)
            ]
            assert client.gather(futures) == [1] * 10
            del futures
            until(lambda: not cluster.groups["a"].running and not cluster.groups["a"].draining)
    assert log.starts() == Counter({f"{batch}-{i}": 1 for batch in range(3) for i in range(10)})
