"""The manifest: ``scalable.yaml`` as models, positions and problems.

A pipeline, in which each stage takes what the one before returned::

    bytes → decoding → events → nodes                        document/
          → selection → overlays → environment               which target; merged; expanded
          → sections → checking (pydantic) → ManifestModel   the manifest, or every problem in it
          → references, validate → issues                    what lies between its parts

From the nodes on, a `Place` goes along: a value with its path and its position, which makes the issues about it.
In reading order, each module importing only those above it:

=============  ====================================================================================
`issues`       a problem and its position, and a report of all of them
`errors`       the exceptions that carry them
`document`     a package: text or data → nodes, and `Place`
`files`        the bytes of a file, whatever is at its path
`environment`  ``${VAR}`` → values, which are secrets
`dotenv`       values from the file ``.env`` beside the manifest
`selection`    the target that is meant, and its overlay
`overlays`     one part of a document merged into the whole
`lock`         one hash for the content of a document
`units`        amounts of memory and time
`schema`       the models: `ManifestModel` and its parts
`messages`     pydantic's errors → messages that quote what was written
`checking`     one part → a model or every problem; providers use it for their options
`sections`     a document → its sections
`references`   names that have to exist
`parser`       the pipeline: `load_manifest`, `parse_manifest`
`validate`     `validate_manifest`
`storage`      where results are kept, and outputs that are only checked
`jsonschema`   one JSON Schema for editors
=============  ====================================================================================

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
from scalable.manifest.parser import load_manifest, load_targets, parse_manifest
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
    "load_targets",
    "parse_manifest",
    "validate_manifest",
]
