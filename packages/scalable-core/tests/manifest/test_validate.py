from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scalable.manifest.parser import parse_manifest
from scalable.manifest.validate import validate_manifest
from scalable.providers.registry import clear_registry, register_provider

TEXT = """\
version: 1
project: {name: x}
targets:
  laptop: {provider: local}
  hpc: {provider: Slurm, overlay: big, workers: {gcam: 1, helper: 2}}
components:
  gcam: {memory: 8G}
tasks:
  run: {component: gcam}
overlays:
  big: {components: {helper: {new: true}}}
"""


def report(text: str, target: str | None = None, known: set[str] | None = None) -> list[str]:
    manifest = parse_manifest(text, env={}, target_name=target, source="m")
    known = {"local", "slurm"} if known is None else known
    return [str(issue) for issue in validate_manifest(manifest, known_providers=known).issues]


@pytest.mark.parametrize("target", [None, "laptop", "hpc"])
def test_what_fits_together_has_no_problems(target: str | None) -> None:
    assert report(TEXT, target) == []


def test_a_task_needs_its_component() -> None:
    assert report(TEXT.replace("component: gcam", "component: gcma")) == [
        "m:9:9 E_UNKNOWN_COMPONENT tasks.run.component: "
        "there is no component 'gcma' (did you mean 'gcam'?)"
    ]


def test_a_target_needs_its_overlay() -> None:
    assert report(TEXT.replace("overlay: big", "overlay: gib")) == [
        "m:5:26 E_UNKNOWN_OVERLAY targets.hpc.overlay: there is no overlay 'gib'; "
        "the overlays are: big",
        "m:5:59 E_UNKNOWN_TAG targets.hpc.workers.helper: "
        "there is no component 'helper'; its name is the tag of a group",
    ]


def test_workers_need_their_component_which_an_overlay_may_bring() -> None:
    assert report(TEXT.replace("gcam: 1", "gcan: 1")) == [
        "m:5:50 E_UNKNOWN_TAG targets.hpc.workers.gcan: "
        "there is no component 'gcan' (did you mean 'gcam'?); its name is the tag of a group"
    ]


def test_a_missing_provider_is_an_error_where_it_is_needed() -> None:
    line = "m:5:9 {} targets.hpc.provider: provider 'Slurm' is not installed: "
    line += "pip install scalable-slurm; installed: local"
    assert report(TEXT, "laptop", {"local"}) == [line.format("W_UNKNOWN_PROVIDER")]
    assert report(TEXT, None, {"local"}) == [line.format("W_UNKNOWN_PROVIDER")]
    assert report(TEXT, "hpc", {"local"}) == [line.format("E_UNKNOWN_PROVIDER")]


def test_an_unknown_provider_may_be_misspelt() -> None:
    assert report(TEXT.replace("Slurm", "slrum"), "hpc") == [
        "m:5:9 E_UNKNOWN_PROVIDER targets.hpc.provider: "
        "unknown provider 'slrum' (did you mean 'slurm'?); installed: local, slurm"
    ]


@pytest.fixture
def _desk() -> Iterator[None]:
    clear_registry()
    register_provider("desk", lambda: None)  # type: ignore[arg-type,return-value]  # never made
    yield
    clear_registry()


@pytest.mark.usefixtures("_desk")
def test_the_registry_knows_the_installed_providers() -> None:
    text = "version: 1\nproject: {name: x}\ntargets: {t: {provider: desk}}\ncomponents: {a: {}}\n"
    assert validate_manifest(parse_manifest(text)).issues == ()


def test_a_manifest_needs_a_target_and_a_component() -> None:
    assert [line.split()[1] for line in report("version: 1\nproject: {name: x}\n")] == [
        "E_NO_TARGET",
        "E_NO_COMPONENT",
    ]


def test_a_worker_of_a_few_bytes_is_odd() -> None:
    (line,) = report(TEXT.replace("8G", "16"))
    assert line.startswith(
        "m:7:10 W_TINY_MEMORY components.gcam.memory: is too little for a worker"
    )


def test_warnings_of_the_parser_are_in_the_report() -> None:
    text = TEXT.replace("provider: local", "provider: local, account: '${UNSET}'")
    (line,) = report(text)
    assert line.startswith("m:4:29 W_UNSET_VARIABLE targets.laptop.account: UNSET is not set")


def test_an_overlay_that_is_not_known_yet_is_not_missed() -> None:
    text = TEXT.replace("overlay: big", "overlay: '${UNSET}'").replace(", helper: 2", "")
    assert [line.split()[1] for line in report(text, "laptop")] == ["W_UNSET_VARIABLE"]


def test_names_from_the_environment_are_not_shown() -> None:
    text = TEXT.replace("component: gcam", "component: '${C}'").replace("local", "'${P}'")
    manifest = parse_manifest(text, env={"C": "abc", "P": "xyz"}, source="m")
    shown = str(validate_manifest(manifest, known_providers={"slurm"}).issues)
    assert "there is no component '${C}'" in shown
    assert "unknown provider '${P}'" in shown
    assert "abc" not in shown
    assert "xyz" not in shown


def test_thousands_of_wrong_names_are_reported_without_delay() -> None:
    components: dict[str, Any] = {f"component-{n}": {} for n in range(2000)}
    tasks = {f"task-{n}": {"component": f"componemt-{n}"} for n in range(2000)}
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "x"},
            "targets": {"t": {"provider": "local"}},
            "components": components,
            "tasks": tasks,
        }
    )
    issues = validate_manifest(manifest, known_providers={"local"}).issues
    hints = ["did you mean" in issue.message for issue in issues]
    assert (len(hints), sum(hints)) == (2000, 10)
