"""A tag decides where a call runs, and changes nothing else of it."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Callable
from typing import Any

import dask
import pytest
from dask.base import annotate
from dask.delayed import delayed
from distributed import Client, LocalCluster, get_worker

from scalable.client import ScalableClient
from scalable.errors import (
    SlotsExceededError,
    TagConflictError,
    UnknownTagError,
    UnknownWorkerError,
)

OPTIONS: dict[str, Any] = {
    "retries": 2,
    "priority": 3,
    "fifo_timeout": "1s",
    "workers": ["stitches"],
}


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self) -> int:
        self.n += 1
        return self.n


def where(*_: Any, **__: Any) -> str:
    return str(get_worker().name)


def divide(a: int, b: int) -> float:
    return a / b


def length_of(_: int, b: bytes) -> int:
    return len(b)


# -- Arguments


@pytest.mark.parametrize("name", ["submit", "map"])
def test_the_options_of_dask_have_the_names_and_defaults_of_dask(name: str) -> None:
    ours = inspect.signature(getattr(ScalableClient, name)).parameters
    theirs = inspect.signature(getattr(Client, name)).parameters
    assert {*ours} - {*theirs} == {"tag", "n", "task"}
    assert {*theirs} <= {*ours}
    assert {n: p.default for n, p in theirs.items()} == {n: ours[n].default for n in theirs}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_reaches_neither_the_key_nor_the_function(
    client: ScalableClient, option: str
) -> None:
    given: dict[str, Any] = {option: OPTIONS[option]}
    plain = client.submit(where, 1, tag="stitches")
    with_option = client.submit(where, 1, tag="stitches", **given)
    assert with_option.key == plain.key
    mapped = client.map(where, [1, 2], tag="stitches")
    again = client.map(where, [1, 2], tag="stitches", **given)
    assert [future.key for future in again] == [future.key for future in mapped]
    assert client.submit(dict, tag="stitches", a=1, **given).result(timeout=30) == {"a": 1}


def test_options_reach_the_scheduler(client: ScalableClient) -> None:
    future = client.submit(where, tag="stitches", **OPTIONS)
    assert future.result(timeout=30) == "stitches"
    cluster: Any = client.cluster
    task = cluster.scheduler.tasks[future.key]
    assert task.retries == 2
    assert task.priority[0] == -3
    assert task.worker_restrictions


def test_arguments_of_the_function_are_in_the_key_as_in_dask(client: ScalableClient) -> None:
    calls: list[tuple[Any, Any]] = [
        ((1,), {}),
        ((2,), {}),
        ((), {"a": 1}),
        ((), {"a": 2}),
        ((), {}),
    ]
    keys = {client.submit(where, *args, tag="stitches", **kw).key for args, kw in calls}
    assert len(keys) == 5


def test_slots_are_in_the_key(client: ScalableClient) -> None:
    one, two = (client.submit(where, tag="stitches", n=n) for n in (1, 2))
    assert one.key != two.key
    assert client.submit(where, tag="stitches").key == one.key
    (first,), (second,) = (client.map(where, [1], tag="stitches", n=n) for n in (1, 2))
    assert first.key != second.key


def test_a_prefix_that_is_given_does_not_join_two_tags(client: ScalableClient) -> None:
    futures = [client.map(where, [1], tag=tag, key="run")[0] for tag in ("gcam-7", "stitches")]
    assert client.gather(futures) == ["gcam-7", "stitches"]
    assert all(str(future.key).startswith("run-") for future in futures)


@pytest.mark.parametrize("option", ["actor", "actors"])
def test_each_actor_is_one_of_its_own(client: ScalableClient, option: str) -> None:
    given: dict[str, Any] = {option: True}
    submitted = [client.submit(Counter, tag="stitches", **given) for _ in range(2)]
    mapped = client.map(Counter, [0, 0], tag="stitches", **given)
    actors: list[Any] = [future.result(timeout=30) for future in (*submitted, *mapped)]
    assert [actor.add().result() for actor in actors] == [1, 1, 1, 1]
    assert actors[0].add().result() == 2


def test_a_map_in_batches(client: ScalableClient) -> None:
    futures = client.map(where, range(10), tag="stitches", batch_size=3)
    assert client.gather(futures) == ["stitches"] * 10
    again = client.map(where, range(10), tag="stitches")
    assert [future.key for future in again] == [future.key for future in futures]


@pytest.mark.parametrize("tag", [None, "stitches"])
def test_a_large_keyword_argument_of_a_map_arrives(client: ScalableClient, tag: str | None) -> None:
    # Dask would call both `b`, and its scheduler fails on that.
    one, other = bytes(200_000), bytes(300_000)
    first = client.map(length_of, range(3), b=one, tag=tag)
    second = client.map(length_of, range(4), b=other, tag=tag, batch_size=2)
    assert client.gather(first, errors="collect") == [200_000] * 3
    assert client.gather(second, errors="collect") == [300_000] * 4
    again = client.map(length_of, range(3), b=one, tag=tag)
    assert [future.key for future in again] == [future.key for future in first]
    smaller = client.map(length_of, range(3), b=bytes(99_000), tag=tag)  # one that Dask passes
    assert client.gather(smaller, errors="collect") == [99_000] * 3


def test_what_is_no_function_is_refused_as_by_dask(client: ScalableClient) -> None:
    not_a_function: Any = 5
    for call in (client.submit, client.map):
        with pytest.raises(TypeError, match="must be a callable"):
            call(not_a_function, [1], tag="stitches")


# -- What the user sees


def test_tracebacks_have_no_frames_of_ours(client: ScalableClient, cluster: LocalCluster) -> None:
    future = client.submit(divide, 1, 0, tag="stitches")

    def frames(call: Callable[[], Any]) -> list[str]:
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        found = traceback.walk_tb(caught.value.__traceback__)
        return [frame.f_globals["__name__"] for frame, _ in found]

    async def use() -> list[str]:
        async with ScalableClient(cluster.scheduler_address, asynchronous=True) as other:
            same = other.submit(divide, 1, 0, tag="stitches")
            with pytest.raises(ZeroDivisionError) as caught:
                await other.gather([same])
            found = traceback.walk_tb(caught.value.__traceback__)
            return [frame.f_globals["__name__"] for frame, _ in found]

    seen = [frames(lambda: future.result(timeout=30)), frames(lambda: client.gather([future]))]
    seen.append(asyncio.run(use()))
    assert all(__name__ in names for names in seen)
    assert [name for names in seen for name in names if name.startswith("scalable.")] == []


@pytest.mark.parametrize("nframes", [1, 2])
def test_the_code_of_a_computation_is_the_users(client: ScalableClient, nframes: int) -> None:
    cluster: Any = client.cluster
    collection: Any = delayed(divide)(4, 2)

    def workflow() -> list[Any]:
        return [
            client.submit(divide, 1, 1, tag="stitches"),
            *client.map(divide, [1], [2], tag="stitches"),
            client.compute(collection, tag="stitches"),
            client.submit(divide, 1, 3),
        ]

    with dask.config.set({"distributed.diagnostics.computations.nframes": nframes}):
        for future in workflow():
            future.result(timeout=30)
    codes = {code for computation in cluster.scheduler.computations for code in computation.code}
    assert len(codes) == 4
    for frames in codes:
        assert [frame.filename for frame in frames] == [__file__] * nframes
        assert "def workflow" in frames[-1].code


# -- What cannot be


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resources": {"typo": 1}}, UnknownTagError, "no worker group has the tag 'typo'"),
        ({"resources": {"stitches": 5}}, SlotsExceededError, "n=5 of tag 'stitches'"),
        (
            {"resources": {"stitches": 1, "gcam-7": 1}},
            TagConflictError,
            "a task runs on one worker, which has the tag of one group; this asks for gcam-7, stitches",
        ),
        ({"resources": {"gcam-7": 1}, "tag": "stitches"}, TagConflictError, "a task runs on one"),
        (
            {"resources": {"stitches": 1}, "tag": "stitches", "n": 2},
            TypeError,
            "resources= asks for 1 slots of tag 'stitches', and n= for 2; leave out resources",
        ),
        (
            {"workers": ["stitches"], "allow_other_workers": True, "tag": "stitches"},
            TypeError,
            "allow_other_workers= would let Dask run it on workers without the tag 'stitches'",
        ),
        (
            {"workers": ["gcam-7"], "allow_other_workers": True, "resources": {"stitches": 1}},
            TypeError,
            "allow_other_workers= would let Dask run it on workers without the tag 'stitches'",
        ),
        ({"tag": 3}, TypeError, "tag=3 is not a name"),
        ({"tag": ["gcam-7"]}, TypeError, "tag=['gcam-7'] is not a name"),
        ({"task": b"run_gcam"}, TypeError, "task=b'run_gcam' is not a name"),
        ({"tag": "stitches", "n": "2"}, TypeError, "n='2' is not a number of slots"),
        ({"resources": {"stitches": "2"}}, TypeError, "resources= asks for '2' of 'stitches'"),
        ({"resources": {"stitches": -1}}, TypeError, "resources= asks for -1 of 'stitches'"),
        ({"resources": {"stitches": math.nan}}, TypeError, "resources= asks for nan of"),
        ({"resources": ["stitches"]}, TypeError, "resources=['stitches'] does not say how much"),
        (
            {"workers": ["nobody"]},
            UnknownWorkerError,
            "no worker named in workers= is connected: 'nobody'",
        ),
        (
            {"workers": ["tcp://127.0.0.1:1"], "tag": "stitches"},
            UnknownWorkerError,
            "no worker named in workers= is connected: 'tcp://127.0.0.1:1'",
        ),
        (
            {"workers": ["gcam-7"], "tag": "stitches"},
            UnknownWorkerError,
            "no worker named in workers= has {'stitches': 1}: 'gcam-7'",
        ),
    ],
)
def test_what_can_never_run_is_refused_at_once(
    client: ScalableClient, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    collection: Any = delayed(where)()
    for call in (
        lambda: client.submit(where, 1, **options),
        lambda: client.map(where, [1], **options),
        lambda: client.compute(collection, **options),
        lambda: client.persist(collection, **options),
        lambda: client.get({"x": (where,)}, "x", **options),
    ):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(message)
    cluster: Any = client.cluster
    assert not cluster.scheduler.tasks


TAGGED = {"compute", "get", "get_executor", "map", "persist", "run", "submit"}
OPTIONS_ARE_OTHERS = {"publish_dataset", "run_on_scheduler", "sync"}
"""Methods whose further options are names of datasets, or arguments of a function."""


def methods_with_any_option() -> set[str]:
    public = {name: getattr(Client, name) for name in dir(Client) if not name.startswith("_")}
    return {
        name
        for name, method in public.items()
        if callable(method)
        and any(
            each.kind is each.VAR_KEYWORD for each in inspect.signature(method).parameters.values()
        )
    }


@pytest.mark.parametrize("option", ["tag", "task"])
@pytest.mark.parametrize(
    "name", sorted(methods_with_any_option() - TAGGED - OPTIONS_ARE_OTHERS - {"start"})
)
def test_what_has_no_tag_refuses_one(
    client: ScalableClient, name: str, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    method = getattr(client, name)
    required = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    given: list[Any] = [[] for each in required if each.kind is each.POSITIONAL_OR_KEYWORD]
    with pytest.raises(TypeError, match=f"{option}\\b"):
        method(*given, **{option: "stitches"})
    assert not [each for each in caplog.records if each.levelname == "ERROR"]  # of the scheduler


@pytest.mark.parametrize("by", ["name", "address", "host"])
def test_workers_may_be_named_as_in_dask(client: ScalableClient, by: str) -> None:
    workers = client.scheduler_info()["workers"]
    address, facts = next((a, w) for a, w in workers.items() if w["name"] == "stitches")
    named = {"name": "stitches", "address": address, "host": facts["host"]}[by]
    assert client.submit(where, tag="stitches", workers=named).result(timeout=30) == "stitches"


def test_a_tag_is_an_annotation_of_calls(client: ScalableClient) -> None:
    with annotate(tag="stitches", n=2):
        one, many = client.submit(where), client.map(where, [1, 2])
        other = client.submit(where, tag="gcam_7")
        called = client.get_executor().submit(where, 3)
    # The key is that of the same call with the tag as its argument.
    assert one.key == client.submit(where, tag="stitches", n=2).key
    assert client.gather([one, *many, other]) == ["stitches"] * 3 + ["gcam_7"]
    assert called.result(timeout=30) == "stitches"
    with annotate(n=2):  # somebody else's
        assert client.submit(where, 4, tag="gcam-7").result(timeout=30) == "gcam-7"
    for options in ({"tag": "typo"}, {"task": "typo"}):
        with annotate(**options), pytest.raises(LookupError, match="typo"):
            client.submit(where)


def test_an_option_of_a_call_counts_more_than_an_annotation(client: ScalableClient) -> None:
    with annotate(tag="gcam-7"):
        by_resources = client.submit(where, resources={"stitches": 1})
        by_executor = client.get_executor(resources={"stitches": 1}).submit(where, 1)
        assert by_resources.result(timeout=30) == by_executor.result(timeout=30) == "stitches"
        (mapped,) = client.map(where, [2], resources={"stitches": 1})
        assert mapped.result(timeout=30) == "stitches"
    computed, other = delayed(where)(3), delayed(where)(4)
    with annotate(tag="stitches", n=4):
        # The annotated tag, with as many slots as the call says.
        assert client.submit(where, n=2).key == client.submit(where, tag="stitches", n=2).key
        assert client.compute(computed, n=1).result(timeout=30) == "stitches"
        assert client.compute(other, resources={"gcam-7": 1}).result(30) == "gcam-7"
        with pytest.raises(SlotsExceededError):
            client.submit(where, n=5)


@pytest.mark.parametrize("outer", [{"tag": "gcam-7"}, {"task": "run_gcam"}])
def test_no_block_loses_what_another_one_asks_for(
    client: ScalableClient, outer: dict[str, str]
) -> None:
    other = {"resources": {"stitches": 1}}
    for first, second in ((outer, other), (other, outer)):
        with annotate(**first), annotate(**second):
            for submit in (client.submit, client.map):
                with pytest.raises(TagConflictError, match=r"gcam-7.*stitches|stitches.*gcam-7"):
                    submit(where, [1])
            with pytest.raises(TagConflictError):
                client.get_executor()
            with pytest.raises(TagConflictError):
                client.compute(delayed(where)(1))
    with annotate(**outer), annotate(resources={"gcam-7": 1}):
        assert client.submit(where).result(timeout=30) == "gcam-7"


def test_annotations_are_checked_as_arguments_are(client: ScalableClient) -> None:
    with annotate(allow_other_workers=True), pytest.raises(TypeError, match="without the tag"):
        client.submit(where, tag="stitches")
    with annotate(resources={"typo": 1}), pytest.raises(UnknownTagError):
        client.submit(where)
    with annotate(resources={"gcam-7": 1}):
        assert client.submit(where, pure=False).result(timeout=30) == "gcam-7"
        assert client.submit(where, tag="stitches").result(timeout=30) == "stitches"


def test_a_plain_cluster_may_have_any_resources_and_workers(plain: LocalCluster) -> None:
    with ScalableClient(plain) as client:
        futures = [
            client.submit(where, resources={"anything": 1}),
            client.submit(where, workers=["one that comes later"]),
        ]
        assert [future.status for future in futures] == ["pending", "pending"]


# -- Executors


def test_an_executor_for_a_tag(client: ScalableClient) -> None:
    with client.get_executor(tag="gcam-7") as one, client.get_executor(task="emulate") as other:
        assert one.submit(where).result(timeout=30) == "gcam-7"
        assert other.submit(where).result(timeout=30) == "stitches"
        assert {*one.map(where, range(3))} == {"gcam-7"}
    with client.get_executor(tag="stitches", n=2, retries=1, pure=False) as executor:
        assert executor.submit(divide, 1, 2).result(timeout=30) == 0.5
    with client.get_executor() as executor:
        assert executor.submit(abs, -1).result(timeout=30) == 1
    with pytest.raises(UnknownTagError):
        client.get_executor(tag="typo")
    with pytest.raises(TypeError, match="unsupported arguments"):
        client.get_executor(tag="stitches", colour="red")


# -- Functions on workers


def name_of(*args: Any, dask_worker: Any, **kwargs: Any) -> tuple[Any, ...]:
    return dask_worker.name, args, kwargs


def test_a_function_runs_on_the_workers_of_a_group(client: ScalableClient) -> None:
    every = client.run(name_of)
    address = {name: address for address, (name, *_) in every.items()}
    assert sorted(address) == ["gcam-7", "gcam_7", "stitches"]
    by: list[dict[str, Any]] = [{"tag": "stitches"}, {"task": "emulate"}]
    for options in by:
        found = client.run(name_of, 1, n=2, **options)
        assert found == {address["stitches"]: ("stitches", (1,), {"n": 2})}
    both = ["gcam-7", address["stitches"]]
    assert [*client.run(name_of, tag="stitches", workers=both)] == [address["stitches"]]
    assert [*client.run(name_of, workers=[address["gcam_7"]])] == [address["gcam_7"]]
    with pytest.raises(UnknownTagError):
        client.run(name_of, tag="typo")
    with pytest.raises(UnknownWorkerError):
        client.run(name_of, tag="stitches", workers=["gcam-7"])
    failed = client.run(divide, 1, 0, tag="stitches", on_error="return")
    assert isinstance(failed[address["stitches"]], ZeroDivisionError)


def test_a_coroutine_runs_a_function_on_a_group(cluster: LocalCluster) -> None:
    async def run() -> list[Any]:
        async with ScalableClient(
            cluster.scheduler_address, asynchronous=True, set_as_default=False
        ) as client:
            return [*(await client.run(name_of, tag="gcam-7")).values()]

    assert asyncio.run(run()) == [("gcam-7", (), {})]


# -- Tasks that are run again in the client's process


@pytest.mark.parametrize("options", [{}, {"tag": "stitches"}])
def test_a_task_with_inputs_is_run_again_here(
    client: ScalableClient, options: dict[str, Any]
) -> None:
    here: Any = client  # Dask adds these methods to its clients
    one = client.submit(abs, -1, **options)
    good, bad = (client.submit(divide, one, b, **options) for b in (2, 0))
    assert here.recreate_task_locally(good) == 0.5
    with pytest.raises(ZeroDivisionError):
        here.recreate_error_locally(bad)
    mapped = client.map(divide, [one, one], [4, 5], **options)
    assert [here.recreate_task_locally(future) for future in mapped] == [0.25, 0.2]
    # The input is as it was.
    assert client.submit(divide, one, 1, **options).result(timeout=30) == 1
    assert one.result(timeout=30) == 1
