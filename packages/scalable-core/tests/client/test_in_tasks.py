"""A tag means the same inside of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import distributed
import pytest
from dask.base import annotate, compute
from dask.delayed import delayed
from distributed import Client, LocalCluster, Security, get_client, get_worker, worker_client
from distributed.diagnostics.plugin import NannyPlugin, SchedulerPlugin, UploadDirectory

from scalable.client import ScalableClient
from scalable.cluster.plugin import clients
from scalable.cluster.plugin.clients import UntaggedClient
from scalable.errors import NotSupportedError

TASKS = {"run_gcam": "gcam-7", "emulate": "stitches"}


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[ScalableClient]:
    """A client that tasks in this process do not see, so that they get one from their worker."""
    with ScalableClient(cluster, tasks=TASKS, set_as_default=False) as client:
        yield client


def where(*_: Any, **__: Any) -> str:
    return str(get_worker().name)


def in_a_worker_client() -> Any:
    with worker_client() as client:
        first = client.submit(where, 1, tag="stitches").result(timeout=30)
        return first, *client.gather(client.map(where, [1, 2], task="run_gcam"))


def with_a_client() -> Any:
    client = get_client()
    first = client.submit(where, 2, tag="stitches").result(timeout=30)
    return first, *client.gather(client.map(where, [1, 2], tag="gcam_7"))


async def in_a_coroutine() -> Any:
    client = get_client()
    first = await client.submit(where, 3, tag="stitches")
    return first, *await client.gather(client.map(where, [1, 2], tag="gcam_7"))


def with_collections() -> Any:
    return compute([delayed(where)(number) for number in range(3)], tag="stitches")[0]


@pytest.mark.parametrize(
    ("function", "places"),
    [
        (in_a_worker_client, ["stitches", "gcam-7", "gcam-7"]),
        (with_a_client, ["stitches", "gcam_7", "gcam_7"]),
        (in_a_coroutine, ["stitches", "gcam_7", "gcam_7"]),
        (with_collections, ["stitches"] * 3),
    ],
)
def test_a_tag_in_a_task(client: ScalableClient, function: Any, places: list[str]) -> None:
    assert [*client.submit(function, tag="gcam-7").result(timeout=30)] == places


def closes_its_client() -> str:
    with get_client() as client:
        return str(client.submit(where, 4, tag="stitches").result(timeout=30))


def test_a_task_after_one_that_has_closed_its_client_gets_another(client: ScalableClient) -> None:
    for _ in range(2):
        future = client.submit(closes_its_client, tag="gcam-7", pure=False)
        assert future.result(timeout=30) == "stitches"
    assert client.submit(with_a_client, tag="gcam-7").result(timeout=30)[0] == "stitches"


def makes_a_client_that_cannot_connect() -> str:
    try:
        Client(get_worker().scheduler.address, security=Security(require_encryption=True))
    except RuntimeError as error:
        return str(error)
    return "it has connected"


def test_a_task_after_one_whose_client_could_not_connect_gets_another(
    client: ScalableClient,
) -> None:
    for _ in range(2):  # the second one after the worker has a client
        future = client.submit(makes_a_client_that_cannot_connect, tag="gcam-7", pure=False)
        assert "encryption required" in future.result(timeout=30)
        after = client.submit(with_a_client, tag="gcam-7", pure=False)
        assert after.result(timeout=30)[0] == "stitches"


def test_a_worker_without_the_package_refuses_tags(
    client: ScalableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(clients, "import_module", missing)

    def use() -> list[str]:
        made: Any = UntaggedClient
        client = made(get_worker().scheduler.address, set_as_default=False)
        refused = []
        with client:
            calls: list[Callable[[], Any]] = [
                lambda: client.submit(where, tag="stitches"),
                lambda: client.map(where, [1], task="emulate"),
                lambda: client.compute([], n=2),
                lambda: client.persist([], tag="stitches"),
                lambda: client.get({}, [], tag="stitches"),
                lambda: client.run(where, tag="stitches"),
            ]
            with annotate(tag="stitches"):
                calls.append(lambda: client.submit(where))
                with contextlib.suppress(TypeError):
                    calls.pop()()
                    refused.append("the annotation was ignored")
            for call in calls:
                try:
                    call()
                except TypeError as error:
                    refused.append(str(error).partition(" ")[0])
            assert client.submit(where, resources={"stitches": 1}).result(timeout=30) == "stitches"
        return refused

    assert clients._client_class() is UntaggedClient
    assert client.submit(use, tag="gcam-7").result(timeout=30) == [
        "tag=",
        "task=",
        "n=",
        "tag=",
        "tag=",
        "tag=",
    ]


def waits_for_its_own_group() -> Any:
    with worker_client() as client:
        return client.submit(where, 5, tag="gcam-7").result(timeout=30)


def secedes_from_all() -> Any:
    client = get_client()
    future = client.submit(where, 6, tag="stitches", n=4)
    distributed.secede()
    return future.result(timeout=30)


def test_a_task_that_secedes_gives_its_slots_back(client: ScalableClient) -> None:
    for _ in range(3):  # and none is given back twice
        future = client.submit(waits_for_its_own_group, tag="gcam-7", pure=False)
        assert future.result(timeout=30) == "gcam-7"
    assert client.submit(secedes_from_all, tag="stitches", n=4).result(timeout=30) == "stitches"
    found = client.run(lambda dask_worker: dask_worker.state.available_resources)
    assert sorted(map(str, found.values())) == ["{'gcam-7': 1}", "{'gcam_7': 1}", "{'stitches': 4}"]


# -- What needs a nanny


class Registers(SchedulerPlugin):
    name = "registers"

    async def start(self, scheduler: Any) -> None:
        await scheduler.register_nanny_plugin(None, b"", name="by a scheduler plugin")


def test_what_needs_a_nanny_is_refused(client: ScalableClient, tmp_path: Any) -> None:
    (tmp_path / "module.py").write_text("")
    for plugin in (NannyPlugin(), UploadDirectory(str(tmp_path)), Registers()):
        with pytest.raises(NotImplementedError, match="workers of a group have no nanny"):
            client.register_plugin(plugin)
    with pytest.raises(NotSupportedError, match="workers of a group have no nanny"):
        client.restart_workers(["stitches"])
    with pytest.raises(NotSupportedError, match="workers of a group have no nanny: leave out"):
        client.run(where, nanny=True)
    with pytest.raises(NotSupportedError, match="workers of a group have no nanny: leave out"):
        client.get_worker_logs(nanny=True)
    logs: Any = client.get_worker_logs()
    assert len(logs) == 3
    assert client.submit(where, tag="stitches").result(timeout=30) == "stitches"
