"""What takes long: many clusters, many ends, long faults."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from kubernetes_clusters import cluster, spec
from kubernetes_site import OURS, KubernetesSite

from scalable.cluster.retry import RetryPolicy
from scalable.providers.base import ScalePlan
from scalable.providers.registry import get_provider
from scalable.testing.conformance import Running, by_value
from scalable.testing.conformance.clients import client_process, expect
from scalable.testing.conformance.running import nap, square, worker_infos

pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")

TWO: Mapping[str, Mapping[str, Any]] = {"alpha": {}, "beta": {}}


def up(running: Running) -> None:
    running.provider.scale(running.handle, ScalePlan({"alpha": 2, "beta": 2}))
    for tag in TWO:
        running.backend.wait_for_group(tag, 2, timeout=running.timeout)


def test_two_workers_of_two_groups_are_up_in_fifteen_seconds(namespace: str) -> None:
    with cluster(namespace, TWO):
        pass  # imports, and the cache of images
    busy = os.getloadavg()[0]
    began = time.monotonic()
    with cluster(namespace, TWO) as running:
        up(running)
        took = time.monotonic() - began
    print(f"2 and 2 workers after {took:.1f} s, at load {busy:.1f}")
    if took > 15 and busy > (os.cpu_count() or 1):
        pytest.skip(f"{took:.1f} s, but this machine is busy: its load is {busy:.1f}")
    assert took <= 15


def test_ten_clusters_one_after_another(site: KubernetesSite, namespace: str) -> None:
    for _ in range(10):
        with cluster(namespace, TWO) as running:
            up(running)
            with running.client() as client:
                assert client.submit(by_value(square), 3, tag="beta").result(60) == 9
        assert site.leftovers(namespace) == []


def test_two_clusters_at_once(site: KubernetesSite, namespace: str) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(cluster(namespace, TWO)) for _ in range(2)]
        for running in both:
            up(running)
        for running in both:
            with running.client() as client:
                assert len(worker_infos(client)) == 4
    assert site.leftovers(namespace) == []


def test_a_group_shrinks_under_work(namespace: str) -> None:
    with cluster(namespace, {"gcam": {}, "stitches": {}}) as running, running.client() as client:
        running.scale(gcam=4, stitches=2)
        others = running.backend.groups["stitches"].workers
        napping = by_value(_count)
        tasks = client.map(napping, range(60), tag="gcam", pure=False)
        client.submit(by_value(square), 1, tag="gcam").result(60)
        running.provider.scale(running.handle, ScalePlan({"gcam": 1, "stitches": 2}))
        runs = client.gather(tasks)
        running.until(lambda: running.backend.groups["gcam"].running == 1, "gcam has shrunk")
        assert sorted(runs) == list(range(60))
        story = client.run_on_scheduler(by_value(_reruns))
        assert story == []
        assert running.backend.groups["stitches"].workers == others


def _count(n: int) -> int:
    import time

    time.sleep(0.3)
    return n


def _reruns(dask_scheduler: object) -> list[str]:
    """Return the tasks that the scheduler has seen in memory, and then not."""
    return [
        key
        for key, start, finish, *_ in getattr(dask_scheduler, "transition_log")  # noqa: B009
        if start == "memory" and finish in ("released", "waiting", "processing", "no-worker")
    ]


def test_twenty_kills_in_a_row(site: KubernetesSite, namespace: str) -> None:
    with cluster(namespace, {"gcam": {}, "stitches": {}}) as running:
        running.scale(gcam=2, stitches=1)
        others = running.backend.groups["stitches"].workers
        for _ in range(20):
            victim = running.backend.groups["gcam"].workers[0]
            (pod,) = (p for p in site.names("pods", namespace, OURS) if p.startswith(victim))
            site.kubectl(
                *("delete", "pod", pod, f"--namespace={namespace}"),
                *("--grace-period=0", "--force"),
            )

            def is_healed(victim: str = victim) -> bool:
                group = running.backend.groups["gcam"]
                return victim not in group.workers and group.running == 2

            running.until(is_healed, "a kill is healed")
            # One that ends sooner after its start counts as a failure, and the next is started with a growing pause.
            healthy_at = time.monotonic() + RetryPolicy().healthy_after

            def is_healthy(at: float = healthy_at) -> bool:
                return time.monotonic() > at

            running.until(is_healthy, "the worker is healthy")
        deployments = f"{OURS},dask.org/component=worker"
        running.until(
            lambda: len(site.names("deployments", namespace, deployments)) == 3,
            "there are as many Deployments as workers are wanted",
        )
        assert running.backend.groups["stitches"].workers == others


def test_a_network_that_is_cut_for_a_minute_loses_nothing(
    site: KubernetesSite, namespace: str
) -> None:
    with cluster(namespace, TWO) as running, running.client() as client:
        running.scale(alpha=1)
        workers = running.backend.groups["alpha"].workers
        done = client.submit(by_value(square), 3, tag="alpha")
        assert done.result(60) == 9
        running_task = client.submit(by_value(nap), 30.0, tag="alpha", pure=False)
        running.until(lambda: any(client.processing().values()), "the task runs")
        with site.cut():
            time.sleep(60)
        assert client.submit(by_value(square), 4, tag="alpha").result(120) == 16
        running_task.result(120)
        assert done.result(10) == 9
        assert running.backend.groups["alpha"].workers == workers


def test_a_session_that_is_idle_lives(site: KubernetesSite, namespace: str) -> None:
    with cluster(namespace, TWO, {"orphan_timeout": 10}) as running:
        running.scale(alpha=1)
        (made,) = site.get("daskclusters", namespace)
        idle = float(made["spec"].get("idleTimeout") or 0)
        time.sleep(idle + 10 + 20)
        assert running.backend.groups["alpha"].running == 1
        with running.client() as client:
            assert client.submit(by_value(square), 3, tag="alpha").result(60) == 9


class Suite:
    """What a client process builds: see `client_process`."""

    timeout = 150.0

    def make_provider(self) -> object:
        return get_provider("kubernetes")

    def spec(self, **options: object) -> object:
        return spec(os.environ["SCALABLE_TESTS_NAMESPACE"], {"alpha": {}, "beta": {}}, options)


@pytest.fixture(scope="module")
def duration(site: KubernetesSite) -> Iterator[float]:
    """Seconds that a cluster takes to come up."""
    with pytest.MonkeyPatch.context() as patch, site.namespace() as namespace:
        patch.setenv("SCALABLE_TESTS_NAMESPACE", namespace)
        with client_process(Suite(), {}) as client:  # type: ignore[arg-type]
            expect(client, "building")
            began = time.monotonic()
            expect(client, "up")
            took = time.monotonic() - began
            client.send_signal(signal.SIGINT)
            client.communicate(timeout=120)
        yield took


@pytest.mark.parametrize("moment", range(20))
def test_ctrl_c_at_any_moment_leaves_nothing(
    site: KubernetesSite, namespace: str, duration: float, moment: int
) -> None:
    with client_process(Suite(), {}) as client:  # type: ignore[arg-type]
        expect(client, "building")
        time.sleep(duration * moment / 20)
        client.send_signal(signal.SIGINT)
        said, errors = client.communicate(timeout=150)
        assert client.returncode, (said, errors)
        assert site.leftovers(namespace) == []
