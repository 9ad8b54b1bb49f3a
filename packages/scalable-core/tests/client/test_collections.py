"""A tag on a collection holds for all of its tasks, and so do annotations."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import pandas as pd
import pytest
import xarray as xr
from dask.base import annotate, compute, persist
from dask.delayed import delayed as delayed_object
from distributed import SchedulerPlugin, get_worker, wait

from scalable.client import ScalableClient
from scalable.errors import TagConflictError, UnknownTagError, UnknownWorkerError


def where(*_: Any) -> str:
    return str(get_worker().name)


class Places(SchedulerPlugin):
    """Records which workers tasks are assigned to."""

    name = "places"

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.seen = scheduler, dict[str, set[str]]()

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == "processing":
            worker = self.scheduler.tasks[key].processing_on.name
            self.seen.setdefault(worker, set()).add(key)


@pytest.fixture
def places(client: ScalableClient) -> Places:
    cluster: Any = client.cluster
    plugin = Places(cluster.scheduler)
    cluster.loop.add_callback(cluster.scheduler.add_plugin, plugin)
    client.scheduler_info(n_workers=-1)  # after it
    return plugin


def bag() -> Any:
    return db.from_sequence(range(6), npartitions=3).map(where).frequencies()


def array() -> Any:
    return (da.ones((6, 6), chunks=2) + 1)[:4].sum()


def rechunked() -> Any:
    with dask.config.set({"array.rechunk.method": "p2p"}):
        return da.ones((8, 8), chunks=(8, 1)).rechunk((1, 8)).sum()


def delayed() -> Any:
    return delayed_object(sum)([delayed_object(abs)(-i) for i in range(4)])


RESULTS = {bag: [("gcam_7", 6)], array: 48, rechunked: 64, delayed: 6}
COLLECTIONS = [*RESULTS]


@pytest.mark.parametrize("make", COLLECTIONS)
@pytest.mark.parametrize("call", ["compute", "persist", "dask.compute", "dask.persist", "annotate"])
def test_a_tag_holds_for_all_tasks(
    client: ScalableClient, places: Places, make: Any, call: str
) -> None:
    x = make()
    if call == "compute":
        client.compute(x, tag="gcam-7").result(timeout=30)
    elif call == "persist":
        wait(client.persist(x, task="run_gcam"), timeout=30)
    elif call == "dask.compute":
        compute(x, tag="gcam-7")
    elif call == "dask.persist":
        wait(persist(x, tag="gcam-7"), timeout=30)
    else:
        with annotate(resources={"gcam-7": 1}):
            x.compute()
    assert {*places.seen} == {"gcam-7"}


@pytest.mark.parametrize("make", COLLECTIONS)
def test_what_was_annotated_when_it_was_made_runs_there(
    client: ScalableClient, places: Places, make: Any
) -> None:
    with annotate(resources={"gcam_7": 1}):
        x = make()
    found = client.compute(x, priority=1).result(timeout=30)
    assert found == RESULTS[make]
    assert places.seen.pop("gcam_7")
    # Only the tasks that Dask adds in order to join the results may run elsewhere.
    others = [str(key) for keys in places.seen.values() for key in keys]
    assert [key for key in others if not key.startswith("finalize")] == []


@pytest.mark.parametrize("options", [{"tag": "gcam_7"}, {"task": "emulate", "n": 4}])
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("make", COLLECTIONS)
def test_a_tag_is_an_annotation(
    client: ScalableClient, places: Places, make: Any, optimize: bool, options: dict[str, Any]
) -> None:
    with annotate(**options):
        x = make()
    client.compute(x, optimize_graph=optimize).result(timeout=30)
    assert places.seen.pop(options.get("tag", "stitches"))
    others = [str(key) for keys in places.seen.values() for key in keys]
    assert [key for key in others if not key.startswith("finalize")] == []


def test_delayed_objects_in_a_list_keep_their_tags(client: ScalableClient) -> None:
    with annotate(tag="gcam_7"):
        parts = [delayed_object(where)(1)]
    with annotate(resources={"stitches": 1}):
        parts.append(delayed_object(where)(2))
    with annotate(tag="gcam-7"):
        joined = delayed_object("+".join)(parts)
    assert joined.compute() == "gcam_7+stitches"


@pytest.mark.parametrize("optimize", [True, False])
def test_what_annotated_tasks_in_a_list_depend_on_may_have_no_annotations(
    client: ScalableClient, optimize: bool
) -> None:
    first = delayed_object(abs)(-1)
    with annotate(resources={"gcam_7": 1}):
        second = delayed_object(where)(first)
    joined = delayed_object("+".join)([second])
    assert joined.compute(optimize_graph=optimize) == "gcam_7"


def test_a_collection_keeps_its_own_annotations(client: ScalableClient) -> None:
    with annotate(tag="gcam_7"):
        x = da.arange(4, chunks=2)
    assert x.sum().compute() == 6
    assert x.dask.layers[x.name].annotations == {"tag": "gcam_7"}


def test_a_tag_annotates_what_is_computed_in_its_block(
    client: ScalableClient, places: Places
) -> None:
    with annotate(tag="stitches"):
        y = da.arange(4, chunks=2)
    with annotate(tag="gcam_7"):
        assert da.ones(4, chunks=2).sum().compute() == 4
        assert {*places.seen} == {"gcam_7"}
        # As with annotated resources, the part's own tag counts.
        assert [*y.compute()] == [0, 1, 2, 3]
    assert {key[0] for key in places.seen["stitches"]} == {y.name}


@pytest.mark.filterwarnings("ignore:Computing mixed collections")
def test_annotations_hold_beside_a_data_frame(client: ScalableClient, places: Places) -> None:
    with annotate(resources={"gcam_7": 1}):
        x = da.arange(8, chunks=1) + 1
    found, frame = compute(x, dd.from_pandas(pd.DataFrame({"y": range(6)}), npartitions=2))
    assert [*found] == [*range(1, 9)]
    assert [*frame.y] == [*range(6)]
    where_x = {n for n, keys in places.seen.items() for key in keys if key[0] == x.name}
    assert where_x == {"gcam_7"}


def test_parts_may_be_annotated_differently(client: ScalableClient, places: Places) -> None:
    with annotate(resources={"gcam-7": 1}):
        x = da.arange(4, chunks=1) + 1
    with annotate(resources={"stitches": 2}):
        y = x * 2
    joined = db.from_sequence(["a"]).map(str.upper)
    assert [v.tolist() if hasattr(v, "tolist") else v for v in compute(y, joined)] == [
        [2, 4, 6, 8],
        ["A"],
    ]
    assert {x.name, y.name} <= {key[0] for keys in places.seen.values() for key in keys}
    assert {key[0] for key in places.seen["gcam-7"]} >= {x.name}
    by_name = {
        key[0]: {worker for worker, keys in places.seen.items() if key in keys}
        for keys in places.seen.values()
        for key in keys
    }
    assert by_name[x.name] == {"gcam-7"}
    assert by_name[y.name] == {"stitches"}


def test_an_annotated_collection_is_culled(client: ScalableClient, places: Places) -> None:
    with annotate(resources={"gcam-7": 1}):
        x = da.arange(100, chunks=1) + 1
    assert x[3].compute() == 4
    assert sum(map(len, places.seen.values())) < 10


def test_a_tag_and_an_annotation_may_not_contradict_each_other(client: ScalableClient) -> None:
    with annotate(resources={"gcam-7": 1}):
        x = da.arange(4, chunks=1)
    for tag in ("stitches", "gcam_7"):
        with pytest.raises(TagConflictError, match=f"asks for .*{tag}"):
            client.compute(x, tag=tag)
    assert client.compute(x.sum(), tag="gcam-7").result(timeout=30) == 6


def test_an_annotation_that_no_worker_has_is_refused(client: ScalableClient) -> None:
    with annotate(resources={"typo": 1}):
        x = da.arange(4, chunks=1)
    with pytest.raises(UnknownTagError, match="typo"):
        x.compute()
    with annotate(tag="typo"):
        x = da.arange(4, chunks=1)
    with pytest.raises(UnknownTagError, match="typo"):
        x.compute()
    with annotate(resources={"typo": 1}):
        parts = [delayed_object(abs)(-1)]
    with pytest.raises(UnknownTagError, match="typo"):
        delayed_object(sum)(parts).compute()


@pytest.mark.parametrize("options", [{}, {"tag": "stitches"}, {"resources": {"stitches": 1}}])
def test_annotated_workers_that_are_not_there_are_refused(
    client: ScalableClient, options: dict[str, Any]
) -> None:
    with annotate(workers=["nobody"], **options):
        x, call = da.arange(4, chunks=1), delayed_object(abs)(-1)
    for collection in (x, call):
        with pytest.raises(UnknownWorkerError, match="'nobody'"):
            client.compute(collection)
    with annotate(workers=["gcam-7"], **options):
        x = da.arange(4, chunks=1)
    if options:
        with pytest.raises(UnknownWorkerError, match="'stitches'"):
            client.compute(x)
    else:
        assert client.compute(x.sum()).result(timeout=30) == 6
        with pytest.raises(UnknownWorkerError, match="'stitches'"):
            client.compute(x, tag="stitches")


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("options", [{"resources": {"gcam-7": 1}}, {"tag": "gcam-7"}])
def test_an_annotated_group_and_other_workers_exclude_each_other(
    client: ScalableClient, inside: bool, options: dict[str, Any]
) -> None:
    # The scheduler would assign its tasks to workers without the resource, and fail on that.
    with annotate(**options, workers=["nobody"], allow_other_workers=inside):
        x = da.arange(4, chunks=1)
    others: Any = {} if inside else {"workers": "any", "allow_other_workers": True}
    with pytest.raises(TypeError, match="workers without the tag 'gcam-7'; leave it out"):
        client.compute(x, **others)


@pytest.mark.parametrize("tag", ["gcam-7", "stitches"])
def test_two_collections_that_share_tasks(client: ScalableClient, places: Places, tag: str) -> None:
    x = da.arange(8, chunks=2)
    assert [int(v) for v in compute(x.sum(), (x + 1).sum(), x[0], tag=tag)] == [28, 36, 0]
    assert {*places.seen} == {tag}


def test_a_shuffle_uses_the_running_workers_of_its_group_only(
    client: ScalableClient, places: Places
) -> None:
    # Without it, partitions are assigned to workers that cannot run them, and wait for ever.
    future = client.compute(rechunked(), tag="stitches")
    assert future.result(timeout=30) == 64
    assert {*places.seen} == {"stitches"}


def test_dataframes(client: ScalableClient, places: Places) -> None:
    frame = dd.from_pandas(pd.DataFrame({"x": [i % 3 for i in range(30)], "y": range(30)}), 5)
    shuffled = frame.shuffle("x", shuffle_method="p2p")
    merged = frame.merge(frame, on="x", shuffle_method="p2p")
    assert client.compute(shuffled.y.sum(), tag="gcam-7").result(timeout=60) == 435
    assert len(merged.compute(tag="gcam-7")) == 300
    assert {*places.seen} == {"gcam-7"}


def test_xarray_datasets(client: ScalableClient, places: Places) -> None:
    values = xr.DataArray(da.ones((4, 6), chunks=2), dims=("year", "region"))
    yearly = xr.Dataset({"warming": values, "twice": 2 * values}).sum("region")
    assert yearly.twice.compute(tag="gcam-7").values.tolist() == [12, 12, 12, 12]
    kept = client.persist(yearly, tag="gcam-7")
    assert client.compute(kept.warming, tag="gcam-7").result(timeout=60).values.tolist() == [6] * 4
    assert {*places.seen} == {"gcam-7"}
