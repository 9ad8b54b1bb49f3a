from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from distributed import LocalCluster

from scalable.errors import ValidationFailedError
from scalable.manifest import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.local import LocalProvider
from scalable.providers.local.containers import ContainerSetup, Runtime
from scalable.providers.local.prepare import prepare_containers
from scalable.testing.offline import spec_of

if TYPE_CHECKING:
    from conftest import Install

# As recorded from Podman 4.3; the first has what limits need.
ABLE = {
    "cgroupControllers": ["cpu", "memory"],
    "security": {"rootless": False},
    "serviceIsRemote": False,
}
UNABLE = {"cgroupControllers": None, "security": {"rootless": True}, "serviceIsRemote": False}


def spec(components: dict[str, Any], **options: Any) -> DeploymentSpec:
    return spec_of("local", yaml.safe_dump(options) if options else "", yaml.safe_dump(components))


def problems(components: dict[str, Any], containers: str = "podman") -> list[tuple[str, str]]:
    report = LocalProvider().validate(spec(components, containers=containers))
    return [(issue.code, issue.path) for issue in report.issues]


def setups(components: dict[str, Any], containers: str = "podman") -> dict[str, ContainerSetup]:
    target_spec = spec(components, containers=containers)
    return prepare_containers(target_spec, LocalProvider().parse_options(target_spec))


def refusals(components: dict[str, Any], containers: str = "podman") -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailedError) as caught:
        setups(components, containers)
    return [(issue.code, issue.path) for issue in caught.value.report.errors]


# -- Offline


def test_a_valid_target_has_no_problems_and_needs_no_runtime(install: Install) -> None:
    gcam = {
        "image": "gcam:7",
        "runtime": "docker",
        "mounts": {"/nowhere": "/in"},
        "env": {"A": "b"},
    }

    assert problems({"gcam": gcam}) == []
    assert problems({"gcam": gcam, "plots": {}}, "auto") == []


@pytest.mark.parametrize(
    ("containers", "settings", "needed"),
    [
        ("podman", {}, False),
        ("apptainer", {"runtime": "none"}, False),
        ("podman", {"runtime": "docker"}, True),
        ("auto", {"runtime": "docker"}, True),
        ("auto", {"runtime": "none"}, False),
        ("auto", {}, False),
    ],
)
def test_a_container_needs_an_image(
    containers: str, settings: dict[str, Any], needed: bool
) -> None:
    found = [
        issue for issue in problems({"gcam": settings}, containers) if issue[0].startswith("E")
    ]

    assert found == [("E_NO_IMAGE", "components.gcam.image")] * needed


def test_paths_with_mount_syntax_are_rejected() -> None:
    gcam = {"image": "gcam:7", "mounts": {"/a:b": "/in", "/c": "/out,2"}}

    assert problems({"gcam": gcam}, "podman") == [("E_MOUNT", 'components.gcam.mounts."/c"')]
    assert problems({"gcam": gcam}, "apptainer") == [
        ("E_MOUNT", 'components.gcam.mounts."/a:b"'),
        ("E_MOUNT", 'components.gcam.mounts."/c"'),
    ]


def test_variables_that_the_runtime_itself_reads_are_rejected() -> None:
    gcam = {"image": "gcam:7", "env": {"PATH": "/opt/gcam/bin", "GCAM_HOME": "/opt/gcam"}}

    assert problems({"gcam": gcam}, "docker") == [("E_CONTAINER_ENV", "components.gcam.env.PATH")]
    assert problems({"gcam": gcam}, "apptainer") == []
    assert problems({"gcam": gcam}, "none") == [("W_NO_EFFECT", "components.gcam.image")]


def test_fields_without_effect_differ_for_processes_and_containers() -> None:
    components = {
        "gcam": {"image": "gcam:7", "gpus": 1},
        "plots": {"mounts": {"/data": "/data"}},
    }

    assert problems(components, "auto") == [
        ("W_NO_EFFECT", "components.gcam.gpus"),
        ("W_NO_EFFECT", "components.plots.mounts"),
    ]


# -- On this machine


def test_a_missing_runtime_is_reported_before_anything_starts(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*args: object, **kwargs: object) -> None:
        pytest.fail("a scheduler was started")

    monkeypatch.setattr(LocalCluster, "__init__", start)

    with pytest.raises(ValidationFailedError, match="podman: is not installed here"):
        LocalProvider().build_cluster(spec({"gcam": {"image": "a:1"}}, containers="podman"))


@pytest.mark.parametrize(
    ("containers", "settings", "where"),
    [
        ("docker", {}, "targets.here.containers"),
        ("auto", {}, "targets.here.containers"),
        ("auto", {"runtime": "docker"}, "components.gcam.runtime"),
    ],
)
def test_a_missing_runtime_is_reported_where_it_is_set(
    install: Install, containers: str, settings: dict[str, Any], where: str
) -> None:
    assert refusals({"gcam": {"image": "a:1", **settings}}, containers) == [("E_NO_RUNTIME", where)]


def test_without_containers_no_runtime_is_called(install: Install) -> None:
    assert setups({"gcam": {"image": "a:1"}}, "none") == {}
    assert setups({"gcam": {}}, "auto") == {}


def test_every_problem_is_reported_before_any_image_is_fetched(
    install: Install, tmp_path: Path
) -> None:
    install("podman", status=1)  # fetching would fail
    install("podman", "info", stdout=json.dumps({"host": ABLE}))
    gcam = {"image": "gcam:7", "mounts": {str(tmp_path): "/here", str(tmp_path / "no"): "/no"}}
    plots = {"image": "plots:1", "mounts": {str(tmp_path / "nor"): "/nor"}}

    assert refusals({"gcam": gcam, "plots": plots}) == [
        ("E_MOUNT", f'components.gcam.mounts."{tmp_path}/no"'),
        ("E_MOUNT", f'components.plots.mounts."{tmp_path}/nor"'),
    ]


def test_unavailable_images_are_reported_with_the_runtimes_message(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("podman", "info", stdout=json.dumps({"host": ABLE}))
    install("podman", "image", status=125, stderr="Error: image not known")
    install("podman", "pull", status=125, stderr="Error: unauthorized: log in first")
    components = {"gcam": {"image": "a:1"}, "plots": {"image": "b:1"}, "other": {"image": "a:1"}}

    with pytest.raises(ValidationFailedError, match="unauthorized: log in first") as caught:
        setups(components)

    paths = [issue.path for issue in caught.value.report.errors]
    assert len(paths) == 2
    assert "components.plots.image" in paths
    assert caplog.text.count("fetching image a:1 with podman") == 1


def test_the_value_of_a_variable_is_not_in_an_error(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("podman", "info", stdout=json.dumps({"host": ABLE}))
    install("podman", "image", status=125)
    install("podman", "pull", status=125, stderr="Error: no image host.example/hush-hush:1")
    manifest = parse_manifest(
        "version: 1\nproject: {name: x}\ntargets: {here: {provider: local, containers: podman}}\n"
        "components: {gcam: {image: 'host.example/${IMAGE}:1'}}",
        env={"IMAGE": "hush-hush"},
    )
    target_spec = DeploymentSpec.from_manifest(manifest, target_name="here")

    with pytest.raises(ValidationFailedError) as caught:
        prepare_containers(target_spec, LocalProvider().parse_options(target_spec))

    assert "hush" not in str(caught.value) + caplog.text
    assert "${IMAGE}" in str(caught.value)


def test_a_setup_has_paths_of_this_machine(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("docker", "info", stdout=json.dumps({"MemoryLimit": True, "CpuCfsQuota": True}))
    install("docker", "image", stdout="sha256:0123")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "prepare.py").touch()
    gcam = {
        "image": "gcam:7",
        "mounts": {"data": "/in", "~/runs": "/out"},
        "preload_script": "prepare.py",
    }
    plots = {"image": "plots:1", "preload_script": "plots.prepare"}

    found = setups({"gcam": gcam, "plots": plots, "plain": {}}, "auto")

    docker = Runtime("docker", limits_memory=True, limits_cpus=True)
    script = f"{tmp_path}/prepare.py"
    mounts = {f"{tmp_path}/data": "/in", f"{tmp_path}/runs": "/out", script: script}
    assert found == {
        "gcam": ContainerSetup(docker, "gcam:7", mounts, script),
        "plots": ContainerSetup(docker, "plots:1", {}, "plots.prepare"),
    }


def test_a_runtime_that_cannot_limit_memory_is_a_warning(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("podman", "info", stdout=json.dumps({"host": UNABLE}))
    install("podman", "image", stdout="0123")

    with caplog.at_level(logging.WARNING):
        setups({"gcam": {"image": "a:1"}})
        assert caplog.text == ""
        setups({"gcam": {"image": "a:1", "memory": "1G"}})

    assert "podman cannot limit the memory of containers here" in caplog.text


# -- Preflight


def test_a_preflight_checks_runtimes_images_and_mounts(install: Install, tmp_path: Path) -> None:
    install("podman", "info", stdout=json.dumps({"host": UNABLE}))
    install("podman", "image", status=125, stderr="Error: image not known")
    components = {
        "gcam": {"image": "gcam:7", "memory": "1G", "mounts": {str(tmp_path / "no"): "/no"}},
        "plots": {"image": "/images/plots.sif", "runtime": "apptainer"},
        "plain": {},
    }

    results = LocalProvider().preflight(spec(components, containers="auto"))

    assert {result.name: result.ok for result in results} == {
        "apptainer": False,
        "podman": True,
        "memory under podman": None,
        "mounts of gcam": False,
        "image of gcam": None,
        "image of plots": False,
    }
    assert all(result.remedy for result in results if result.ok is False)


def test_a_preflight_of_plain_processes_checks_nothing(install: Install) -> None:
    assert list(LocalProvider().preflight(spec({"gcam": {}}))) == []
