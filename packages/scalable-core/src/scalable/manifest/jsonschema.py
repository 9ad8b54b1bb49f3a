"""One JSON Schema (draft 2020-12) for a whole manifest, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalable.manifest.overlays import NEW
from scalable.manifest.schema import (
    NAME_PATTERN,
    ComponentConfig,
    FrozenModel,
    ProjectConfig,
    TargetConfig,
    TaskConfig,
)

__all__ = ["as_written", "compose_schema"]

Schema = dict[str, Any]

_FREE_KEYS: Schema = {"^x-": {}}
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
"""A ``${VAR}`` may stand for a number, a boolean or one of a few words."""

_ANNOTATIONS = ("title", "description", "default", "examples", "deprecated")
_TEXT_CONSTRAINTS = ("pattern", "minLength", "maxLength", "format")


def compose_schema(provider_schemas: Mapping[str, Mapping[str, Any]]) -> Schema:
    """Return the schema of a manifest.

    Parameters
    ----------
    provider_schemas : mapping of str to mapping
        By the name of each provider, the schema of its options: ``Options.model_json_schema()``.

    Returns
    -------
    dict
        The schema. A target must match the options of its ``provider``; one whose provider is not in
        `provider_schemas` may have any options.

    Examples
    --------
    >>> schema = compose_schema({"desk": {"type": "object", "properties": {"room": {"type": "string"}}}})
    >>> sorted(schema["properties"])
    ['components', 'overlays', 'project', 'targets', 'tasks', 'version']
    >>> schema["$defs"]["provider-desk"]["properties"]["room"]
    {'type': ['string', 'number']}
    """
    project, component, task = (
        _model_schema(model) for model in (ProjectConfig, ComponentConfig, TaskConfig)
    )
    target = _target_schema(provider_schemas)
    definitions = {
        "project": project,
        "component": component,
        "task": task,
        "target": target,
        "overlay": _overlay_schema(project, component, task),
    }
    for name in sorted(provider_schemas):
        definitions[f"provider-{name}"] = _options_schema(name, provider_schemas[name], target)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scalable manifest, version 1",
        **_closed_object(
            {
                "properties": {
                    "version": {"const": 1, "description": "The version of the manifest's format."},
                    "project": {"$ref": "#/$defs/project"},
                    **{
                        section: _section_schema({"$ref": f"#/$defs/{section.removesuffix('s')}"})
                        for section in ("targets", "tasks", "overlays")
                    },
                    "components": _section_schema(
                        {"anyOf": [{"$ref": "#/$defs/component"}, {"type": "null"}]}
                    ),
                },
                "required": ["version", "project"],
            }
        ),
        "$defs": definitions,
    }


def _overlay_schema(project: Schema, component: Schema, task: Schema) -> Schema:
    """Return the schema of an overlay, which may leave out any key of what it changes."""
    return _closed_object(
        {
            "description": "A part of a manifest, merged into it when the selected target names it.",
            "properties": {
                "project": {key: value for key, value in project.items() if key != "required"},
                "targets": _section_schema({"type": "object"}),
                "components": _section_schema(_partial(component)),
                "tasks": _section_schema(_partial(task)),
            },
        }
    )


def _closed_object(schema: Schema) -> Schema:
    """Return an object schema that allows only its own keys and those that begin with ``x-``."""
    return {
        "type": "object",
        **schema,
        "patternProperties": _FREE_KEYS,
        "additionalProperties": False,
    }


def _section_schema(entry: Schema) -> Schema:
    """Return the schema of a section: entries by name, or null."""
    return {
        "type": ["object", "null"],
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": entry,
    }


def _model_schema(model: type[FrozenModel]) -> Schema:
    """Return the schema of an entry of a section."""
    schema = as_written(model.model_json_schema())
    if model is not ProjectConfig:
        schema["properties"].pop("name")
        schema["required"] = [key for key in schema.get("required", ()) if key != "name"]
    schema["properties"] = _with_empty_collections(schema["properties"])
    return schema


def _with_empty_collections(properties: Schema) -> Schema:
    """Return the schemas of keys, of which a list or a mapping may have nothing behind it."""
    return {
        key: {**each, "type": [each["type"], "null"]}
        if each.get("type") in ("array", "object")
        else each
        for key, each in properties.items()
    }


def _partial(schema: Schema) -> Schema:
    """Return the schema of an entry of an overlay, which may say that it is new."""
    partial = {key: value for key, value in schema.items() if key != "required"}
    return {**partial, "properties": {**schema["properties"], NEW: {"const": True}}}


def _target_schema(provider_schemas: Mapping[str, Mapping[str, Any]]) -> Schema:
    """Return the schema of a target, which depends on its provider."""
    schema = _model_schema(TargetConfig)
    known = {key: schema["properties"][key] for key in ("provider", "overlay")}
    known["provider"]["examples"] = sorted(provider_schemas)
    target = {
        "type": "object",
        "description": schema["description"],
        "properties": known,
        "required": ["provider"],
    }
    by_provider = [
        {
            "if": {"properties": {"provider": {"const": name}}, "required": ["provider"]},
            "then": {"$ref": f"#/$defs/{_pointer(name)}"},
        }
        for name in sorted(provider_schemas)
    ]
    return {**target, "allOf": by_provider} if by_provider else target


def _options_schema(name: str, schema: Mapping[str, Any], target: Schema) -> Schema:
    """Return the schema of a whole target from that of its provider's options."""
    options = dict(schema)
    if "$ref" in options:  # how pydantic writes a model that contains itself
        referred = options["$defs"][options["$ref"].rpartition("/")[2]]
        options = {**referred, "$defs": options["$defs"]}
    moved = as_written(_relocate_references(options, f"#/$defs/{_pointer(name)}"))
    return {
        **moved,
        "properties": {
            **target["properties"],
            **_with_empty_collections(moved.get("properties", {})),
        },
        "required": ["provider", *moved.get("required", ())],
    }


def _pointer(name: str) -> str:
    """Return the definition of a provider as a part of a JSON pointer (RFC 6901)."""
    return f"provider-{name}".replace("~", "~0").replace("/", "~1")


def _relocate_references(schema: Any, to: str) -> Any:
    if isinstance(schema, Mapping):
        return {key: _relocate_references(value, to) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_relocate_references(item, to) for item in schema]
    if isinstance(schema, str) and schema.startswith("#/$defs/"):
        return to + schema.removeprefix("#")
    return schema


def as_written(schema: Mapping[str, Any]) -> Schema:
    r"""Return the schema of what a manifest may have for a model, from the model's own.

    Keys that begin with ``x-`` are free, a number may stand for text, and a ``${VAR}`` for anything but free text.

    Examples
    --------
    >>> as_written({"type": "integer", "description": "Cores."})
    {'description': 'Cores.', 'anyOf': [{'type': 'integer'}, {'type': 'string', 'pattern': '\\$\\{'}]}
    """
    written = dict(schema)
    for key in ("properties", "patternProperties", "$defs"):
        if key in written:
            written[key] = {name: as_written(inner) for name, inner in written[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(written.get(key), Mapping):
            written[key] = as_written(written[key])
    for key in ("allOf", "oneOf", "prefixItems"):
        if key in written:
            written[key] = [as_written(inner) for inner in written[key]]
    if "anyOf" in written:
        written["anyOf"] = _alternatives(written["anyOf"])
    if "properties" in written and written.get("additionalProperties") is False:
        written["patternProperties"] = {**written.get("patternProperties", {}), **_FREE_KEYS}
    if _is_constrained(written):
        about = {key: written.pop(key) for key in _ANNOTATIONS if key in written}
        return {**about, "anyOf": [written, _VARIABLE]}
    if written.get("type") == "string":
        written["type"] = ["string", "number"]
    return written


def _alternatives(schemas: list[Schema]) -> list[Schema]:
    """Return each of these as written, with the variable that may stand for some of them only once."""
    alternatives: list[Schema] = []
    for schema in map(as_written, schemas):
        inner = schema["anyOf"] if [*schema] == ["anyOf"] else [schema]
        alternatives += [each for each in inner if each not in alternatives]
    return alternatives


def _is_constrained(schema: Schema) -> bool:
    """Return whether a schema is of a single value other than free text."""
    if "enum" in schema or "const" in schema:
        return True
    if schema.get("type") == "string":
        return any(key in schema for key in _TEXT_CONSTRAINTS)
    return schema.get("type") in ("integer", "number", "boolean")
