"""Workers on spare capacity that AWS takes back, with and without notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from aws_account import AwsAccount
from aws_clusters import cluster
from clusters import start
from slurm_site import wait_until
from start_log import logged, started

KINDS = ("fargate", "ec2")


def exists(account: AwsAccount, worker: str) -> bool:
    """Return whether the task or instance of a worker of ``gcam`` has not ended."""
    machines = {task.id for task in account.tasks} | {each.id for each in account.instances}
    return worker.removeprefix("gcam-") in machines


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_notice_results_move_before_the_end(
    account: AwsAccount, kind: str, tmp_path: Path
) -> None:
    log = tmp_path / "starts"
    with cluster(account, {"gcam": {}, "plots": {}}, cluster_type=kind, spot=True) as handle:
        backend = handle.backend
        start(backend, gcam=2, plots=1)
        others = backend.groups["plots"].workers
        with handle.client_factory() as client:
            futures = client.map(logged(log), range(8), tag="gcam")
            client.gather(futures)
            taken = backend.groups["gcam"].workers[0]
            account.interrupt(taken.removeprefix("gcam-"), notice=90)
            wait_until(
                lambda: (
                    taken not in backend.groups["gcam"].workers
                    and backend.groups["gcam"].running == 2
                ),
                "another worker has its place",
                120,
            )
            assert client.gather(futures) == [n * n for n in range(8)]
            wait_until(lambda: not exists(account, taken), "it has ended", 120)
            assert client.gather(futures) == [n * n for n in range(8)]
        assert started(log) == [*range(8)]
        assert backend.groups["plots"].workers == others


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_notice_its_work_is_done_once_more(
    account: AwsAccount, kind: str, tmp_path: Path
) -> None:
    log, gate = tmp_path / "starts", tmp_path / "gate"
    with cluster(account, {"gcam": {}, "plots": {}}, cluster_type=kind, spot=True) as handle:
        backend = handle.backend
        start(backend, gcam=1, plots=1)
        others = backend.groups["plots"].workers
        with handle.client_factory() as client:
            future = client.submit(logged(log, gate), 3, tag="gcam")
            wait_until(lambda: started(log) == [3], "the task runs", 60)
            (taken,) = backend.groups["gcam"].workers
            account.interrupt(taken.removeprefix("gcam-"), notice=0)
            wait_until(lambda: started(log) == [3, 3], "it runs elsewhere", 120)
            gate.touch()
            assert future.result(120) == 9
        assert backend.groups["plots"].workers == others


@pytest.mark.parametrize("kind", KINDS)
def test_workers_fall_back_to_machines_on_demand(account: AwsAccount, kind: str) -> None:
    options = {"cluster_type": kind, "spot": True, "spot_fallback": True}
    with cluster(account, **options) as handle:
        account.conditions.spare = 1
        handle.backend.scale_groups({"gcam": 3})
        handle.backend.wait_for_group("gcam", 3, timeout=120)
        assert account.conditions.spare == 0
