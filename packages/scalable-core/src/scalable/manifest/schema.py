"""The models of a manifest: what `load_manifest` returns.

All are frozen. ``model_fields_set`` says what the manifest gave explicitly; ``repr`` shows ``${VAR}`` as written,
while the attributes hold what the environment made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from scalable.manifest.issues import Position, Severity, ValidationIssue
from scalable.manifest.paths import KeyPath
from scalable.manifest.sourcemap import SourceMap
from scalable.manifest.units import Memory

__all__ = [
    "NAME_PATTERN",
    "ComponentConfig",
    "FrozenModel",
    "ManifestModel",
    "Name",
    "ProjectConfig",
    "TargetConfig",
    "TaskConfig",
]

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,39}$"
"""Names of components, targets, tasks and overlays: what is a word to every backend."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name of a component, a target, a task or an overlay."""
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]


class FrozenModel(BaseModel):
    """Base of the manifest's models, and a good base for the options of a provider.

    Unknown keys are errors, and ``repr`` shows what was written instead of what the environment made of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    _written: Mapping[str, Any] | None = PrivateAttr(default=None)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        written = self._written or {}
        for name, key in self.written_keys():
            if type(self).model_fields[name].repr:
                yield name, written.get(key, getattr(self, name))

    def written_keys(self) -> Iterator[tuple[str, str]]:
        """Give each field that was set explicitly, with the key that a manifest has for it."""
        for name, field in type(self).model_fields.items():
            if name in self.model_fields_set:
                alias = field.validation_alias
                yield name, alias if isinstance(alias, str) else name

    def show_as(self, written: Mapping[str, Any]) -> None:
        """Let ``repr`` show these in place of the values of the fields."""
        self._written = written

    def __eq__(self, other: object) -> bool:
        # How a value was written, and where, is no part of what it says.
        return type(other) is type(self) and self.__dict__ == other.__dict__


def _not_kept(value: object) -> object:
    """Refuse what would need results to be kept; null, false and empty ask for nothing."""
    if value:
        raise PydanticCustomError(
            "E_NOT_SUPPORTED", "is not supported: this version does not keep results; remove it"
        )
    return tuple(value) if isinstance(value, list) else value


_NotKept = BeforeValidator(_not_kept)


def _labels(value: object) -> object:
    """Turn a list of labels into labels without a value."""
    if not isinstance(value, (list, tuple)):
        return value
    if all(isinstance(label, str) for label in value):
        return dict.fromkeys(value, "")
    raise ValueError("must be a list of text, or a mapping of text to text")


Labels = Annotated[
    Mapping[str, str],
    BeforeValidator(_labels),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string", "minLength": 1}},
                {"type": "object", "additionalProperties": {"type": "string"}},
            ]
        }
    ),
]
"""Labels with their values; a list is labels without a value."""


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path inside the container, such as /data")
    return path


ContainerPath = Annotated[str, AfterValidator(_absolute)]


class ProjectConfig(FrozenModel):
    """What the manifest is about."""

    name: str = Field(min_length=1, description="The project's name, for people.")
    default_storage: Annotated[str | None, _NotKept, WithJsonSchema({"type": "null"})] = Field(
        default=None, description="Where results would be kept. Not supported in this version."
    )
    local_cache: Annotated[str | None, _NotKept, WithJsonSchema({"type": "null"})] = Field(
        default=None,
        description="Where results would be kept on this machine. Not supported in this version.",
    )
    modules: tuple[str, ...] | None = Field(
        default=None,
        description="Python modules and packages that workers need, relative to the manifest. "
        "Without it: those in the workflow's directory.",
    )


class TargetConfig(FrozenModel):
    """Where a workflow can run. Beside `provider` and `overlay`, its keys are the provider's options."""

    name: Name
    provider: str = Field(min_length=1, description="The provider that runs it.")
    overlay: str | None = Field(
        default=None,
        description="The overlay that is laid over the manifest when this target is selected.",
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="What else the target says, for its provider to check."
    )


class ComponentConfig(FrozenModel):
    """One kind of worker: what it needs, wherever it runs."""

    name: Name
    image: str | None = Field(default=None, min_length=1, description="Container image.")
    runtime: Literal["apptainer", "singularity", "docker", "podman", "none"] | None = Field(
        default=None,
        description="Container runtime, where the target leaves the choice to the component.",
    )
    cpus: int = Field(default=1, ge=1, description="Cores of one worker.")
    memory: Memory | None = Field(
        default=None,
        description="Memory of one worker: 8G is 8·10⁹ bytes, 8Gi is 2³³, a number is bytes.",
    )
    gpus: int = Field(default=0, ge=0, description="GPUs of one worker.")
    slots: int = Field(default=1, ge=1, description="Tasks at a time on one worker.")
    mounts: Mapping[str, ContainerPath] = Field(
        default_factory=dict, description="Host path to absolute path in the container."
    )
    env: Mapping[EnvironmentName, str] = Field(
        default_factory=dict, description="Environment of the worker."
    )
    tags: Labels = Field(
        default_factory=dict,
        description="Labels for people and bills; a list is labels without a value. Never Dask resources.",
    )
    preload_script: str | None = Field(
        default=None,
        min_length=1,
        description="Python file that each worker runs before its first task.",
    )


class TaskConfig(FrozenModel):
    """A task by name, and the component that runs it."""

    name: Name
    component: str = Field(description="The component that runs it.")
    cache: Annotated[bool, _NotKept, WithJsonSchema({"const": False})] = Field(
        default=False,
        description="Whether results are kept. true is not supported in this version.",
    )
    outputs: Annotated[
        tuple[str, ...], _NotKept, WithJsonSchema({"type": "array", "maxItems": 0})
    ] = Field(
        default=(), description="What results would be kept of. Not supported in this version."
    )


class ManifestModel(FrozenModel):
    """A whole manifest: overlay merged, environment expanded.

    `raw` is the merged document with ``${VAR}`` as written; only this may be shown or stored.
    """

    version: Literal[1]
    project: ProjectConfig
    targets: Mapping[str, TargetConfig] = Field(default_factory=dict)
    components: Mapping[str, ComponentConfig] = Field(default_factory=dict)
    tasks: Mapping[str, TaskConfig] = Field(default_factory=dict)
    overlays: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    raw: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    source: str | None = None
    selected_target: str | None = None

    _source_map: SourceMap = PrivateAttr(default_factory=SourceMap)
    _warnings: tuple[ValidationIssue, ...] = PrivateAttr(default=())

    @property
    def source_map(self) -> SourceMap:
        """Where each part is written, and how; what `check_model` wants to know."""
        return self._source_map

    @property
    def warnings(self) -> tuple[ValidationIssue, ...]:
        """What the parser noticed and could do with; `validate_manifest` reports it too."""
        return self._warnings

    def position(self, path: str | KeyPath) -> Position | None:
        """Say where ``targets.hpc.walltime`` is written; of a missing key, what is nearest around it.

        None for a manifest that came from Python.
        """
        return self._source_map.position(path)

    def issue(
        self, path: str | KeyPath, code: str, message: str, severity: Severity = "error"
    ) -> ValidationIssue:
        """Make an issue about a place in this manifest, with its position."""
        return self._source_map.issue(path, code, message, severity)

    def redact(self, text: str) -> str:
        """Put ``${VAR}`` back wherever a text shows the value of a variable."""
        return self._source_map.redact(text)
