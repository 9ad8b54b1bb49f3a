import asyncio
from typing import Any

from distributed import Client, LocalCluster, Worker

from scalable.cli.counting import count_tasks
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
            assert count_tasks(cluster) == {"work": TaskCount(done=10)}

            run(first.close())
            assert count_tasks(cluster) == {"work": TaskCount(left=10)}

            second = run(start())
            client.gather(futures)
            assert count_tasks(cluster) == {"work": TaskCount(done=10)}
        run(second.close())
