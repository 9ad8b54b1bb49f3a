"""What Dask's client promises of tasks that submit tasks."""

from __future__ import annotations

from distributed import get_client, rejoin, secede, worker_client
from promised_session import Session
from task_functions import add


def test_a_task_can_submit_tasks_and_wait_for_them(session: Session) -> None:
    def both(x: int) -> int:
        client = get_client()
        futures = client.map(add, [x, x + 1])
        secede()
        results = client.gather(futures)
        rejoin()
        return sum(results)

    assert session.submit(both, 1).result(timeout=60) == 3


def test_a_client_of_a_worker_leaves_its_thread_to_others(session: Session) -> None:
    def double(x: int) -> int:
        with worker_client() as client:
            return int(client.submit(add, x, b=x).result(timeout=60))

    # More than there are threads, each of which waits for another task.
    assert session.client.gather(session.map(double, range(8))) == [2 * n for n in range(8)]
