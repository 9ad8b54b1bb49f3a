"""The schema is tried on documents, with a validator for the part of JSON Schema that it uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from scalable.manifest.checking import check_model
from scalable.manifest.jsonschema import compose_schema
from scalable.manifest.parser import parse_manifest
from scalable.manifest.schema import FrozenModel
from scalable.manifest.units import Duration


class Range(FrozenModel):
    """Bounds."""

    minimum: Annotated[int, Field(ge=0)] = Field(default=0, description="At least.")
    maximum: int


class SlurmOptions(FrozenModel):
    """Options of Slurm."""

    account: str = Field(description="Whom to bill.")
    walltime: Duration | None = None
    workers: int | dict[str, int | Range] = 1
    exclusive: bool = False


class Tree(FrozenModel):
    """Options that contain themselves."""

    left: Tree | None = None
    kind: Literal["oak", "elm"] = "oak"


OPTIONS: dict[str, type[FrozenModel]] = {"slurm": SlurmOptions, "a/b~c": Tree}
SCHEMA = compose_schema({name: model.model_json_schema() for name, model in OPTIONS.items()})

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def is_a(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def accepts(schema: Mapping[str, Any] | bool, value: Any) -> bool:
    return schema is True or (schema is not False and all(_verdicts(schema, value)))


def _verdicts(schema: Mapping[str, Any], value: Any) -> Iterator[bool]:
    for keyword, wanted in schema.items():
        match keyword:
            case "$ref":
                yield accepts(resolved(wanted), value)
            case "type":
                kinds = wanted if isinstance(wanted, list) else [wanted]
                yield any(is_a(value, kind) for kind in kinds)
            case "const":
                yield value == wanted and type(value) is type(wanted)
            case "enum":
                yield value in wanted
            case "anyOf":
                yield any(accepts(each, value) for each in wanted)
            case "allOf":
                yield all(accepts(each, value) for each in wanted)
            case "if":
                yield not accepts(wanted, value) or accepts(schema["then"], value)
            case "minimum" | "exclusiveMinimum" if is_a(value, "number"):
                yield value >= wanted
            case "maximum" if isinstance(value, int):
                yield value <= wanted
            case "minLength" if isinstance(value, str):
                yield len(value) >= wanted
            case "pattern" if isinstance(value, str):
                yield re.search(wanted, value) is not None
            case "items" if isinstance(value, list):
                yield all(accepts(wanted, each) for each in value)
            case "maxItems" if isinstance(value, list):
                yield len(value) <= wanted
            case "required" if isinstance(value, dict):
                yield set(wanted) <= value.keys()
            case "propertyNames" if isinstance(value, dict):
                yield all(accepts(wanted, key) for key in value)
            case "properties" if isinstance(value, dict):
                yield all(accepts(wanted[key], value[key]) for key in wanted.keys() & value.keys())
            case "patternProperties" if isinstance(value, dict):
                yield all(
                    accepts(inner, value[key])
                    for pattern, inner in wanted.items()
                    for key in value
                    if re.search(pattern, key)
                )
            case "additionalProperties" if isinstance(value, dict):
                patterns = schema.get("patternProperties", {})
                yield all(
                    accepts(wanted, value[key])
                    for key in value.keys() - schema.get("properties", {}).keys()
                    if not any(re.search(pattern, key) for pattern in patterns)
                )
            case (
                "minimum" | "maximum" | "minLength" | "pattern" | "items" | "maxItems" | "required"
                | "propertyNames" | "properties" | "patternProperties" | "additionalProperties"
            ):  # fmt: skip
                pass  # says nothing of a value of this kind
            case "then" | "title" | "description" | "default" | "examples" | "$defs" | "$schema":
                pass
            case _:
                raise AssertionError(f"the schema uses {keyword!r}, which is not tried here")


def resolved(reference: str) -> Any:
    node: Any = SCHEMA
    for part in reference.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


HEAD = "version: 1\nproject: {name: x}\n"

RIGHT = [
    HEAD,
    HEAD + "targets:\ncomponents:\ntasks:\noverlays:\nx-mine: 1\n",
    HEAD + "targets: {t: {provider: slurm, account: a}}\n",
    HEAD + "targets: {t: {provider: slurm, account: 12, walltime: 02:00:00, x-a: 1}}\n",
    HEAD
    + "targets: {t: {provider: slurm, account: a, walltime: 90m, overlay: o}}\noverlays: {o: {}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, walltime: 30, exclusive: '${E}'}}\n",
    HEAD
    + "targets: {t: {provider: slurm, account: a, workers: {c: 1, d: {maximum: 2, x-y: 3}}}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, workers: '${N}'}}\n",
    HEAD + "targets: {t: {provider: a/b~c, left: {left: {kind: elm}}}}\n",
    HEAD + "targets: {t: {provider: other, anything: [1, {a: b}]}}\n",
    HEAD + "components: {a: {}, b: {cpus: 2, memory: 8Gi, gpus: 0, slots: 2, image: i}}\n",
    HEAD + "components: {a: , b: {env: , mounts: }}\n",
    HEAD + "components: {a: {cpus: '${N}', memory: '${M}', runtime: '${R}'}}\n",
    HEAD + "components: {a: {memory: 1000000, env: {A: b, N: 4}, mounts: {/a: /b}, tags: [x]}}\n",
    HEAD + "components: {a: {memory: null, image: null, tags: {x: y}, x-note: [1]}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, cache: false, outputs: []}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, outputs: {x: 'out/{m}.csv'}}}\n",
    HEAD + "overlays: {o: {components: {a: {new: true, cpus: 2}}}}\n",
    HEAD
    + "components: {a: {}}\ntasks: {t: {component: a, cache: true, version: 2, ignore: [x]}}\n",
    "version: 1\nproject: {name: x, modules: [a], x-b: 1, local_cache: null}\n",
    "version: 1\nproject: {name: x, default_storage: s3://b, trust_results: true}\n",
    "version: 1\nproject: {name: x, results: a, on_store_error: fail}\n",
]
WRONG = [
    "project: {name: x}\n",
    "version: 1\n",
    "version: 2\nproject: {name: x}\n",
    "version: 1\nproject: {}\n",
    "version: 1\nproject: {name: x, nam: y}\n",
    "version: 1\nproject: {name: x, results: ''}\n",
    "version: 1\nproject: {name: x, results: [s3://b]}\n",
    "version: 1\nproject: {name: x, results: a, on_store_error: ignore}\n",
    HEAD + "target: {}\n",
    HEAD + "targets: {t: {}}\n",
    HEAD + "targets: {t: {provider: slurm}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, acount: b}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, exclusive: 1}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, workers: {c: {maximum: 2, minimun: 3}}}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, workers: many}}\n",
    HEAD + "components: {a: {slots: 1000000000}}\n",
    HEAD + "targets: {t: {provider: slurm, account: a, walltime: '1:30'}}\n",
    HEAD + "targets: {t: {provider: a/b~c, left: {left: {kind: pine}}}}\n",
    HEAD + "targets: {1a: {provider: other}}\n",
    HEAD + "components: {a b: {}}\n",
    HEAD + "targets: {t: }\n",
    HEAD + "components: {a: {cpus: 0}}\n",
    HEAD + "components: {a: {cpus: '2'}}\n",
    HEAD + "components: {a: {memory: 8X}}\n",
    HEAD + "components: {a: {runtime: dcoker}}\n",
    HEAD + "components: {a: {name: b}}\n",
    HEAD + "components: {a: {env: {A: true}}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, cache: 1}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, cache: true, ignore: x}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, cache: true, version: [1]}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, outputs: [x]}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, outputs: {x: ''}}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, outputs: {x y: a}}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, outputs: {x: 'a{b.c}'}}}\n",
    HEAD + "components: {a: {}}\ntasks: {t: {component: a, outputs: {x: ../a}}}\n",
    HEAD + "overlays: {o: {version: 1}}\n",
    HEAD + "overlays: {o: {components: {a: {cpu: 2}}}}\n",
]


def document(text: str) -> Any:
    # Of the loaders that are at hand, the one that leaves 02:00:00 alone.
    return yaml.safe_load(text.replace("02:00:00", "'02:00:00'"))


def is_accepted_by_us(text: str) -> bool:
    env = {"E": "true", "N": "2", "M": "1G", "R": "none"}
    try:
        manifest = parse_manifest(text, env=env)
    except ValueError:
        return False
    return not any(
        check_model(OPTIONS[target.provider], target.options, manifest.place(("targets", name)))[1]
        for name, target in manifest.targets.items()
        if target.provider in OPTIONS
    )


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_is_accepted(text: str) -> None:
    assert is_accepted_by_us(text)
    assert accepts(SCHEMA, document(text))


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_refused(text: str) -> None:
    assert not is_accepted_by_us(text)
    assert not accepts(SCHEMA, document(text))


def test_without_providers_any_target_goes() -> None:
    schema = compose_schema({})
    assert "allOf" not in schema["$defs"]["target"]


def test_descriptions_come_from_the_models() -> None:
    definitions = SCHEMA["$defs"]
    slurm = definitions["provider-slurm"]
    assert slurm["properties"]["account"]["description"] == "Whom to bill."
    assert slurm["description"] == "Options of Slurm."
    assert slurm["$defs"]["Range"]["properties"]["minimum"]["description"] == "At least."
    assert definitions["component"]["properties"]["cpus"]["description"].startswith("Cores of")


def test_every_key_of_a_manifest_has_a_description() -> None:
    for name in ("project", "component", "task", "target"):
        for key, schema in SCHEMA["$defs"][name]["properties"].items():
            assert schema.get("description"), f"{name}.{key}"


def test_schemas_of_providers_are_not_changed() -> None:
    schema = SlurmOptions.model_json_schema()
    compose_schema({"slurm": schema})
    assert schema == SlurmOptions.model_json_schema()


def test_the_order_of_providers_does_not_count() -> None:
    schemas = {name: model.model_json_schema() for name, model in OPTIONS.items()}
    backwards = dict(reversed(schemas.items()))
    assert list(compose_schema(schemas)["$defs"]) == list(compose_schema(backwards)["$defs"])
