from __future__ import annotations

import logging
import operator
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from distributed import get_worker, wait

from scalable.errors import GroupFailedError, ValidationFailedError
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import ClusterHandle, DeploymentProvider, DeploymentSpec, ScalePlan
from scalable.providers.local import LocalProvider
from scalable.providers.registry import get_provider
from scalable.testing.offline import manifest_of, modules_of_planning

if TYPE_CHECKING:
    from conftest import Eventually

Build = Callable[..., ClusterHandle]


def spec(components: dict[str, Any], **options: Any) -> DeploymentSpec:
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "test"},
            "targets": {"here": {"provider": "local", **options}},
            "components": components,
            "tasks": {"simulate": {"component": next(iter(components))}},
        }
    )
    return DeploymentSpec.from_manifest(manifest, target_name="here")


def problems(components: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    report = LocalProvider().validate(spec(components, **options))
    return [(issue.code, issue.path) for issue in report.issues]


def test_it_is_found_by_its_name() -> None:
    provider = get_provider("local")

    assert isinstance(provider, LocalProvider)
    assert isinstance(provider, DeploymentProvider)


def test_finding_validating_and_planning_do_without_dask() -> None:
    assert not {"dask", "distributed", "numpy"} & modules_of_planning(manifest_of("local"))


# -- Validation


def test_a_plain_target_has_no_problems() -> None:
    assert problems({"gcam": {"cpus": 2, "memory": "1M", "env": {"A": "b"}}}) == []


def test_threads_cannot_be_in_containers() -> None:
    assert problems({"gcam": {"image": "gcam:7"}}, containers="podman", processes=False) == [
        ("E_NOT_SUPPORTED", "targets.here.containers"),
        ("W_NO_EFFECT", "components.gcam.image"),
    ]


def test_what_processes_cannot_do_is_reported_once_per_component() -> None:
    components = {
        "gcam": {"image": "gcam:7", "mounts": {"/data": "/data"}, "gpus": 1, "memory": "1M"},
        "plain": {"runtime": "none", "env": {"A": "b"}},
    }

    assert problems(components) == [("W_NO_EFFECT", "components.gcam.image")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there"),
        (b"import os\ndef f(:\n", "is not valid Python (line 2: "),
        (b"x = '\xe9'\n", "is not valid Python (line "),
        (b"x = 1\n", ""),
    ],
)
def test_a_preload_script_that_cannot_run_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if content is not None:
        (tmp_path / "prepare.py").write_bytes(content)

    report = LocalProvider().validate(spec({"gcam": {"preload_script": "~/prepare.py"}}))

    assert [issue.code for issue in report.issues] == (["W_NO_FILE"] if message else [])
    assert message in "".join(issue.message for issue in report.issues)


def test_a_preload_script_that_is_a_directory_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").mkdir()

    assert problems({"gcam": {"preload_script": str(tmp_path / "prepare.py")}}) == [
        ("W_NO_FILE", "components.gcam.preload_script")
    ]


def test_what_threads_cannot_do_is_reported_once_per_component() -> None:
    components = {
        "gcam": {"env": {"A": "b"}, "memory": "1G", "preload_script": "p.py", "cpus": 2},
        "plain": {"slots": 2, "cpus": 1, "tags": ["x"]},
    }
    report = LocalProvider().validate(spec(components, processes=False))

    (warning,) = report.issues
    assert (warning.severity, warning.path) == ("warning", "components.gcam.cpus")
    assert warning.message.startswith(
        "has no effect on target 'here', nor have memory, env, preload_script, because workers are threads"
    )


def test_more_memory_than_the_machine_has_is_a_warning() -> None:
    there_is = psutil.virtual_memory().total
    components = {"gcam": {"memory": there_is // 2}, "small": {"memory": 1}}

    assert problems(components, workers={"gcam": 2}) == [("W_MEMORY", "targets.here")]
    assert problems(components, workers={"gcam": 1}) == []


def test_invalid_counts_are_reported_once() -> None:
    assert problems({"gcam": {"memory": "1G"}}, n_workers=5, max_workers=2) == [
        ("E_ABOVE_MAX_WORKERS", "targets.here.n_workers")
    ]


def test_an_invalid_target_starts_nothing() -> None:
    with pytest.raises(ValidationFailedError):
        LocalProvider().build_cluster(spec({"gcam": {"runtime": "docker"}}, containers="docker"))


# -- Clusters


@pytest.fixture(params=[True, False], ids=["list_processes", "threads"])
def processes(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handles = []

    def build(components: dict[str, Any], **options: Any) -> ClusterHandle:
        target_spec = spec(components, **options)
        provider = LocalProvider()
        handles.append(provider.build_cluster(target_spec))
        provider.scale(handles[-1], build_plan(target_spec, provider).scale_plan)
        return handles[-1]

    before = set(psutil.Process().children())
    yield build
    for handle in handles:
        LocalProvider().close(handle)
        LocalProvider().close(handle)
    assert set(psutil.Process().children()) <= before


def test_each_group_runs_its_own_tasks(build: Build, processes: bool) -> None:
    handle = build({"gcam": {}, "stitches": {"slots": 3}}, workers={"gcam": 2}, processes=processes)

    with handle.client_factory() as client:
        names = {
            tag: set(client.gather(client.map(lambda _: get_worker().name, range(20), tag=tag)))
            for tag in ("gcam", "stitches")
        }
        by_task = client.submit(lambda: get_worker().name, task="simulate").result(60)
        here = client.submit(os.getpid, tag="gcam").result(60) == os.getpid()

    assert {name.rpartition("-")[0] for name in names["gcam"]} == {"gcam"}
    assert {name.rpartition("-")[0] for name in names["stitches"]} == {"stitches"}
    assert by_task.startswith("gcam-")
    assert here is not processes


def test_groups_scale_independently(build: Build, processes: bool, eventually: Eventually) -> None:
    handle = build({"gcam": {}, "stitches": {}}, processes=processes)
    cluster = handle.backend
    cluster.wait_for_group("gcam", 1, timeout=60)
    cluster.wait_for_group("stitches", 1, timeout=60)
    stitches = cluster.groups["stitches"].workers

    LocalProvider().scale(handle, ScalePlan({"gcam": 3}))
    cluster.wait_for_group("gcam", 3, timeout=60)
    LocalProvider().scale(handle, ScalePlan({"gcam": 0}))

    eventually(lambda: cluster.groups["gcam"].running + cluster.groups["gcam"].draining == 0)
    assert cluster.groups["stitches"].workers == stitches


def test_an_adaptive_group_scales_from_zero(build: Build, processes: bool) -> None:
    handle = build({"gcam": {}, "stitches": {}}, max_workers=2, processes=processes)
    assert handle.backend.groups["gcam"].wanted == 0

    with handle.client_factory() as client:
        for tag in ("gcam", "stitches"):
            name = client.submit(lambda: get_worker().name, tag=tag, pure=False).result(60)
            assert name.startswith(tag)


def test_a_result_goes_to_the_workers_that_can_read_it(
    build: Build, eventually: Eventually
) -> None:
    handle = build(
        {"gcam": {"env": {"GCAM_ONLY": "x"}}, "plots": {}}, workers={"gcam": 2, "plots": 1}
    )
    cluster = handle.backend
    for tag, n in (("gcam", 2), ("plots", 1)):
        cluster.wait_for_group(tag, n, timeout=60)
    goes, stays = cluster.groups["gcam"].workers

    class OfGcam:
        """As an object of a package that is in one component's environment alone is."""

        def __reduce__(self) -> Any:
            return operator.call, (lambda: os.environ["GCAM_ONLY"],)

    with handle.client_factory() as client:
        result = client.submit(operator.call, OfGcam, tag="gcam", workers=[goes])
        # What has the most results goes last; what has the most bytes is not Dask's choice to take any.
        kept = client.map(bytes, [10**6, 10**6 + 1], tag="gcam", workers=[stays])
        wait([result, *kept], timeout=60)
        with pytest.raises(RuntimeError, match=r"cannot be sent to worker plots-.*'GCAM_ONLY'"):
            client.submit(id, result, tag="plots").result(60)
        cluster.scale_groups({"gcam": 1})
        eventually(lambda: cluster.groups["gcam"].workers == (stays,))
        eventually(lambda: not cluster.groups["gcam"].draining)
        assert client.submit(type, result, tag="gcam").result(60) is str


def test_a_killed_worker_is_replaced(build: Build, eventually: Eventually) -> None:
    handle = build({"gcam": {}})
    cluster = handle.backend
    cluster.wait_for_group("gcam", 1, timeout=60)
    before = cluster.groups["gcam"].workers

    with handle.client_factory() as client:
        os.kill(client.submit(os.getpid, tag="gcam").result(60), signal.SIGKILL)
        eventually(lambda: cluster.groups["gcam"].workers not in (before, ()))
        assert client.submit(lambda: get_worker().name, tag="gcam").result(60) not in before
    assert any("SIGKILL" in event.text for event in cluster.events)


def test_a_group_that_cannot_start_fails_with_its_log(build: Build) -> None:
    handle = build({"gcam": {"preload_script": "/nowhere/prepare.py"}, "fine": {}})

    with pytest.raises(GroupFailedError, match="No module named 'prepare'"):
        handle.backend.wait_for_group("gcam", 1, timeout=120)
    handle.backend.wait_for_group("fine", 1, timeout=60)


def test_threads_per_worker_is_the_default_for_slots(build: Build, processes: bool) -> None:
    handle = build({"gcam": {}, "one": {"slots": 1}}, threads_per_worker=3, processes=processes)
    for tag in ("gcam", "one"):
        handle.backend.wait_for_group(tag, 1, timeout=60)

    with handle.client_factory() as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    assert {w["name"].rpartition("-")[0]: w["nthreads"] for w in workers} == {"gcam": 3, "one": 1}


@pytest.mark.parametrize("settings", [{}, {"dashboard_address": None}], ids=["default", "off"])
def test_a_dashboard_or_none_listens_on_this_machine_only(
    build: Build, settings: dict[str, Any]
) -> None:
    build({"gcam": {}}, n_workers=0, **settings)

    listening = [c for c in psutil.Process().net_connections() if c.status == "LISTEN"]

    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target_spec = spec({"gcam": {}}, processes=processes)
    provider = LocalProvider()
    handle = provider.build_cluster(target_spec)
    provider.scale(handle, ScalePlan({"gcam": 1}))
    handle.backend.wait_for_group("gcam", 1, timeout=60)
    assert list(tmp_path.glob("scalable-*"))

    provider.close(handle)

    assert list(tmp_path.glob("scalable-*")) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_dask_is_quiet_until_the_last_cluster_is_closed(
    order: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    shown, logger = logging.StreamHandler(), logging.getLogger("distributed")
    logger.addHandler(shown)
    request.addfinalizer(lambda: logger.removeHandler(shown))
    provider = LocalProvider()
    made = [provider.build_cluster(spec({"gcam": {}}, processes=False)) for _ in range(2)]
    levels = [shown.level]
    for which in order:
        provider.close(made[which])
        levels.append(shown.level)

    assert levels == [logging.WARNING, logging.WARNING, logging.NOTSET]
