"""One JSON Schema for a whole manifest, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["compose_schema"]


def compose_schema(provider_schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Compose the schema of a manifest from core's models and the options of providers."""
    from scalable.manifest.schema import ComponentConfig, ProjectConfig, TaskConfig

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scalable manifest",
        "type": "object",
        "properties": {
            "project": ProjectConfig.model_json_schema(),
            "components": {"additionalProperties": ComponentConfig.model_json_schema()},
            "tasks": {"additionalProperties": TaskConfig.model_json_schema()},
        },
        "$defs": dict(provider_schemas),
    }
