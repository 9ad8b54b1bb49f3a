"""The manifest: ``scalable.yaml`` as models, positions and problems.

Examples
--------
>>> from scalable.manifest import parse_manifest, validate_manifest
>>> manifest = parse_manifest('''
... version: 1
... project: {name: climate}
... targets: {laptop: {provider: local}}
... components: {fair: {}}
... tasks: {run: {component: fare}}
... ''', source="scalable.yaml")
>>> for issue in validate_manifest(manifest, known_providers={"local"}).errors:
...     print(issue)
scalable.yaml:6:15 E_UNKNOWN_COMPONENT tasks.run.component: there is no component 'fare' (did you mean 'fair'?)
"""

from scalable.manifest.errors import ManifestError, ManifestParseError, ManifestSchemaError
from scalable.manifest.issues import Position, ValidationIssue, ValidationReport
from scalable.manifest.parser import load_manifest, parse_manifest
from scalable.manifest.schema import (
    ComponentConfig,
    ManifestModel,
    ProjectConfig,
    TargetConfig,
    TaskConfig,
)
from scalable.manifest.validate import validate_manifest

__all__ = [
    "ComponentConfig",
    "ManifestError",
    "ManifestModel",
    "ManifestParseError",
    "ManifestSchemaError",
    "Position",
    "ProjectConfig",
    "TargetConfig",
    "TaskConfig",
    "ValidationIssue",
    "ValidationReport",
    "load_manifest",
    "parse_manifest",
    "validate_manifest",
]
