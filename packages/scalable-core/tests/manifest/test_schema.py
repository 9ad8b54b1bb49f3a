from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from scalable.manifest.errors import ManifestSchemaError
from scalable.manifest.parser import parse_manifest
from scalable.manifest.schema import (
    ComponentConfig,
    FrozenModel,
    ManifestModel,
    ProjectConfig,
    TargetConfig,
    TaskConfig,
)

TEXT = """\
version: 1
project:
  name: ${NAME}
targets:
  t:
    provider: ${PROVIDER}
    account: ${ACCOUNT}
    nested: [{key: "${TOKEN}"}]
components:
  c:
    image: registry/${TOKEN}
    cpus: ${CPUS}
    memory: 8G
    env: {TOKEN: "${TOKEN}"}
    mounts: {"${SCRATCH}/in": /in}
    tags: [a]
tasks:
  t: {component: "${COMPONENT}"}
overlays:
  o: {project: {name: "${NAME}"}}
"""
ENV = {
    "NAME": "secret-name",
    "PROVIDER": "secret-provider",
    "ACCOUNT": "secret-account",
    "TOKEN": "secret-token",
    "CPUS": "987654",
    "SCRATCH": "/secret-scratch",
    "COMPONENT": "secret-component",
}


@pytest.fixture
def manifest() -> ManifestModel:
    return parse_manifest(TEXT, env=ENV, source="m")


def parts(manifest: ManifestModel) -> list[FrozenModel]:
    return [
        manifest,
        manifest.project,
        *manifest.targets.values(),
        *manifest.components.values(),
        *manifest.tasks.values(),
    ]


def test_attributes_hold_what_the_environment_made(manifest: ManifestModel) -> None:
    component = manifest.components["c"]
    assert component.image == "registry/secret-token"
    assert component.cpus == 987654
    assert component.memory == 8 * 10**9
    assert component.env == {"TOKEN": "secret-token"}
    assert component.mounts == {"/secret-scratch/in": "/in"}
    assert component.tags == {"a": ""}
    assert manifest.targets["t"].options == {
        "account": "secret-account",
        "nested": [{"key": "secret-token"}],
    }


def test_what_may_be_shown_holds_what_was_written(manifest: ManifestModel) -> None:
    assert manifest.raw["components"]["c"]["cpus"] == "${CPUS}"
    assert manifest.overlays == {"o": {"project": {"name": "${NAME}"}}}
    for shown in (str(manifest.raw), *map(repr, parts(manifest)), *map(str, parts(manifest))):
        for value in ENV.values():
            assert value not in shown


def test_a_repr_shows_what_was_given(manifest: ManifestModel) -> None:
    assert repr(manifest.components["c"]) == (
        "ComponentConfig(name='c', image='registry/${TOKEN}', cpus='${CPUS}', memory='8G', "
        "mounts={'${SCRATCH}/in': '/in'}, env={'TOKEN': '${TOKEN}'}, tags=['a'])"
    )
    assert repr(manifest.targets["t"]) == (
        "TargetConfig(name='t', provider='${PROVIDER}', "
        "options={'account': '${ACCOUNT}', 'nested': [{'key': '${TOKEN}'}]})"
    )
    assert repr(ComponentConfig(name="d", cpus=2)) == "ComponentConfig(name='d', cpus=2)"


@pytest.mark.parametrize(
    "remake", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_is_equal_and_as_discreet(manifest: ManifestModel, remake: Any) -> None:
    again = remake(manifest)
    assert again == manifest
    assert repr(again) == repr(manifest)
    assert again.position("components.c.cpus") == ("m", 12, 5)


def test_how_a_value_is_written_does_not_affect_equality() -> None:
    assert parse_manifest("version: 1\nproject: {name: x}\n") == parse_manifest(
        "project:\n  name: ${NAME}\nversion: 1\n", env={"NAME": "x"}
    ).model_copy(update={"raw": {"version": 1, "project": {"name": "x"}}})


def test_models_say_what_was_explicit(manifest: ManifestModel) -> None:
    assert manifest.components["c"].model_fields_set == {
        *("name", "image", "cpus", "memory", "env", "mounts", "tags")
    }
    assert "overlay" not in manifest.targets["t"].model_fields_set


def test_defaults() -> None:
    component = ComponentConfig(name="c")
    assert component.model_dump() == {
        "name": "c",
        "image": None,
        "runtime": None,
        "nodes": 1,
        "ranks": None,
        "cpus": 1,
        "memory": None,
        "gpus": 0,
        "slots": 1,
        "mounts": {},
        "env": {},
        "tags": {},
        "preload_script": None,
    }
    assert TaskConfig(name="t", component="c").cache is False
    assert ProjectConfig(name="p").modules is None


def test_models_are_frozen_and_can_be_hashed() -> None:
    project = ProjectConfig(name="p", modules=("a",))
    with pytest.raises(ValidationError):
        project.name = "q"
    assert hash(project) == hash(ProjectConfig(name="p", modules=("a",)))
    assert project != ProjectConfig(name="q", modules=("a",))
    assert project != "p"


def test_pydantics_own_errors_do_not_quote_values() -> None:
    with pytest.raises(ValidationError) as caught:
        ComponentConfig.model_validate({"name": "c", "cpus": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_positions_and_issues_come_from_the_manifest(manifest: ManifestModel) -> None:
    assert manifest.position("targets.t.account") == ("m", 7, 5)
    issue = manifest.issue("targets.t.account", "W_X", "secret-account is odd", "warning")
    assert str(issue) == "m:7:5 W_X targets.t.account: ${ACCOUNT} is odd"
    assert manifest.redact("secret-token!") == "${TOKEN}!"


def test_a_model_made_in_python_has_no_positions() -> None:
    manifest = ManifestModel(version=1, project=ProjectConfig(name="p"))
    assert manifest.position("project") is None
    assert manifest.warnings == ()


def test_a_target_made_in_python_shows_its_options() -> None:
    target = TargetConfig(name="t", provider="local", options={"max_workers": 2})
    assert repr(target) == "TargetConfig(name='t', provider='local', options={'max_workers': 2})"


def test_a_variable_is_no_larger_than_linux_takes_it() -> None:
    def parsed(n: int) -> ManifestModel:
        component = {"env": {"A": "x" * n}}
        document = {"version": 1, "project": {"name": "p"}, "components": {"gcam": component}}
        document["targets"] = {"here": {"provider": "local"}}
        return parse_manifest(document, env={})

    assert len(parsed(100_000).components["gcam"].env["A"]) == 100_000
    with pytest.raises(ManifestSchemaError, match=r"E_TOO_LARGE.*one variable") as told:
        parsed(131_072)
    assert len(str(told.value)) < 500
