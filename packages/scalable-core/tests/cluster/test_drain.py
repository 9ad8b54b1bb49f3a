"""Scale-in loses nothing and repeats nothing, on a real scheduler with real workers."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from distributed import Client, Future

from scalable.cluster import GroupedCluster, Pace
from scalable.cluster.port import GroupSpec

Start = Callable[..., GroupedCluster]


def work(log: Path, name: str, seconds: float, *inputs: int) -> int:
    """Note the start, take a while, and add up."""
    with log.open("a") as file:
        file.write(f"{name}\n")
    time.sleep(seconds)
    return 1 + sum(inputs)


def starts(log: Path) -> Counter[str]:
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def test_scaling_at_random_repeats_no_task_and_loses_no_result(
    start: Start, tmp_path: Path
) -> None:
    random, log = Random(20_26), tmp_path / "starts"
    slots = {"a": 1, "b": 2}
    cluster = start(
        *(GroupSpec(tag, n) for tag, n in slots.items()), pace=Pace(tick=0.01, poll=0.05)
    )
    open_futures: deque[tuple[Future[int], int]] = deque()
    expected: Counter[str] = Counter()
    with Client(cluster) as client:

        def submit(name: str, value: int, *inputs: Future[int]) -> Future[int]:
            tag = random.choice([*slots])
            future: Future[int] = client.submit(
                work,
                *(log, name, random.uniform(0.0, 0.05), *inputs),
                key=random.choice([name, ("tuple", name)]),
                resources={tag: 1},
            )
            expected[name] += 1
            open_futures.append((future, value))
            return future

        for turn in range(500):
            left = submit(f"left-{turn}", 1)
            right = submit(f"right-{turn}", 1)
            submit(f"sum-{turn}", 3, left, right)
            cluster.scale_groups({tag: random.randint(0, 3) for tag in slots})
            time.sleep(random.uniform(0.0, 0.04))  # any moment in the life of a task will do
            while len(open_futures) > 60:
                if not open_futures[0][0].done():
                    cluster.scale_groups(dict.fromkeys(slots, 3))
                future, value = open_futures.popleft()
                assert future.result(timeout=30) == value
        cluster.scale_groups(dict.fromkeys(slots, 2))
        assert client.gather([future for future, _ in open_futures]) == [v for _, v in open_futures]

    assert starts(log) == expected
    assert sum(event.text.startswith("draining") for event in cluster.events) > 300
    assert sum(event.text.endswith("is back in service") for event in cluster.events) > 20
