import asyncio
import time
from collections.abc import Callable
from typing import Any

from distributed import Client, Event, LocalCluster, Worker

from scalable.progress.counting import count_tasks
from scalable.runs.tally import TaskCount


def test_a_task_that_is_run_again_is_one_task() -> None:
    async def start() -> Worker:
        worker = Worker(cluster.scheduler_address, dashboard=False, memory_limit=0)
        await worker
        return worker

    def run(coroutine: Any) -> Any:
        loop: Any = cluster.loop
        return asyncio.run_coroutine_threadsafe(coroutine, loop.asyncio_loop).result(30)

    def work(x: int) -> int:
        return x

    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=False
    ) as cluster:
        with Client(cluster) as client:
            first = run(start())
            futures = client.map(work, range(10))
            client.gather(futures)
            assert count_tasks(cluster).tasks == {"work": TaskCount(done=10)}

            run(first.close())
            assert count_tasks(cluster).tasks == {"work": TaskCount(left=10)}

            second = run(start())
            client.gather(futures)
            assert count_tasks(cluster).tasks == {"work": TaskCount(done=10)}
        run(second.close())


def test_how_long_the_rest_takes_is_known_once_durations_are(
    eventually: Callable[[Callable[[], bool]], bool],
) -> None:
    async def start() -> Worker:
        worker = Worker(cluster.scheduler_address, nthreads=1, dashboard=False, memory_limit=0)
        await worker
        return worker

    def run(coroutine: Any) -> Any:
        loop: Any = cluster.loop
        return asyncio.run_coroutine_threadsafe(coroutine, loop.asyncio_loop).result(30)

    def work(x: int, event: str) -> int:
        time.sleep(0.2)
        if event:
            Event(event).wait()
        return x

    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=False
    ) as cluster:
        with Client(cluster) as client:
            worker = run(start())
            assert count_tasks(cluster).rest is None
            client.gather(client.map(work, range(3), event=""))
            held = client.map(work, range(10), event="go")
            try:
                # The scheduler may learn of them a little later.
                assert eventually(lambda: count_tasks(cluster).rest is not None)
                assert (count_tasks(cluster).rest or 0) >= 1.5
            finally:
                Event("go").set()
            client.gather(held)
            assert count_tasks(cluster).rest is None
        run(worker.close())
