"""The models of a manifest: what `load_manifest` returns.

All are frozen. ``model_fields_set`` has what the manifest gives explicitly; ``repr`` shows ``${VAR}`` as written,
while the attributes hold the expanded values.
"""

from __future__ import annotations

import re
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

from scalable.manifest.document.paths import KeyPath
from scalable.manifest.document.place import Place
from scalable.manifest.issues import Position, Severity, ValidationIssue
from scalable.manifest.units import Memory

__all__ = [
    "MOST_SLOTS",
    "NAME_PATTERN",
    "NAME_RULE",
    "ComponentConfig",
    "ContainerPath",
    "FrozenModel",
    "ManifestModel",
    "Name",
    "ProjectConfig",
    "TargetConfig",
    "TaskConfig",
]

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,39}$"
"""Names of components, targets, tasks and overlays: valid in every backend."""

NAME_RULE = "a name begins with a letter and holds only letters, digits, _ and -, 40 at most"
"""The same rule as text, for messages."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name of a component, a target, a task or an overlay."""
MOST_SLOTS = 10_000
"""Slots that a worker may have: each is a thread of its process."""

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]

# MAX_ARG_STRLEN in execve(2): 128 KiB with its name and what is around it.
_MAX_VARIABLE = 128 * 1024 - 1024


def _check_size(value: str) -> str:
    if len(value.encode(errors="surrogatepass")) > _MAX_VARIABLE:
        message = "is more than a process can be given in one variable, 127 KiB; let it name a file"
        raise PydanticCustomError("E_TOO_LARGE", message)
    return value


EnvironmentValue = Annotated[str, AfterValidator(_check_size)]
"""The value of an environment variable."""


class FrozenModel(BaseModel):
    """Base of the manifest's models, and a good base for the options of a provider.

    Unknown keys are errors, and ``repr`` shows what was written instead of the expanded value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    _written: Mapping[str, Any] | None = PrivateAttr(default=None)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        written = self._written or {}
        for name, key in self.written_keys():
            if type(self).model_fields[name].repr:
                yield name, written.get(key, getattr(self, name))

    def written_keys(self) -> Iterator[tuple[str, str]]:
        """Yield each field that was set explicitly, with its key in a manifest."""
        for name, field in type(self).model_fields.items():
            if name in self.model_fields_set:
                alias = field.validation_alias
                yield name, alias if isinstance(alias, str) else name

    def show_as(self, written: Mapping[str, Any]) -> None:
        """Set what ``repr`` shows in place of the values of the fields."""
        self._written = written

    def __eq__(self, other: object) -> bool:
        # How a value was written, and where, is not part of its value.
        return type(other) is type(self) and self.__dict__ == other.__dict__


def _require_local_path(path: str) -> str:
    if not path.startswith(("/", "~")):
        raise ValueError("must be absolute, or begin with ~")
    return path


LocalPath = Annotated[
    str, AfterValidator(_require_local_path), WithJsonSchema({"type": "string", "pattern": "^[/~]"})
]


def _labels_from_list(value: object) -> object:
    """Return a list of labels as labels without a value."""
    if not isinstance(value, (list, tuple)):
        return value
    if all(isinstance(label, str) for label in value):
        return dict.fromkeys(value, "")
    raise ValueError("must be a list of text, or a mapping of text to text")


Labels = Annotated[
    Mapping[str, str],
    BeforeValidator(_labels_from_list),
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


def _require_absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path inside the container, such as /data")
    return path


ContainerPath = Annotated[str, AfterValidator(_require_absolute)]
"""An absolute path inside of a container."""


_OUTPUT_FIELD = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(:[^{}]*)?\}")


def _check_output(path: str) -> str:
    rest = _OUTPUT_FIELD.sub("", path)
    if "{" in rest or "}" in rest:
        raise ValueError(
            "has braces that are not those of an argument; write {member} or {member:03d}"
        )
    if ".." in path.split("/"):
        raise ValueError("must not contain '..'")
    return path


def _outputs_of(value: object) -> object:
    if value == [] or value == ():
        return {}
    if isinstance(value, (list, tuple)):
        raise ValueError("must be a mapping of names to paths, such as {table: out/{member}.csv}")
    return value


Outputs = Annotated[
    Mapping[Name, Annotated[str, Field(min_length=1), AfterValidator(_check_output)]],
    BeforeValidator(_outputs_of),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "propertyNames": {"pattern": NAME_PATTERN},
                    "additionalProperties": {
                        "type": "string",
                        "minLength": 1,
                        "pattern": r"^(?!(.*/)?\.\.(/|$))"
                        r"([^{}]|\{[A-Za-z_][A-Za-z0-9_]*(:[^{}]*)?\}|\$\{[^{}]*\})*$",
                    },
                },
                {"type": "array", "maxItems": 0},
            ]
        }
    ),
]
"""Paths of files by name."""


class ProjectConfig(FrozenModel):
    """The project of a manifest."""

    name: str = Field(min_length=1, description="The project's name, for people.")
    results: str | None = Field(
        default=None,
        min_length=1,
        description="Where the results of tasks with `cache` are kept: a directory, relative to the manifest, or a URL "
        "of fsspec, such as s3://bucket/results.",
    )
    default_storage: str | None = Field(
        default=None, min_length=1, description="Another name of `results`."
    )
    trust_results: bool = Field(
        default=False,
        description="Whether to use results that another user has written. Reading a result can run code.",
    )
    on_store_error: Literal["continue", "fail"] = Field(
        default="continue",
        description="What happens when a result cannot be kept: the run goes on with it, or its task fails.",
    )
    local_cache: LocalPath | None = Field(
        default=None,
        description="Where results, and files of tasks, are copied on each machine that has workers: an absolute path, "
        "or one that begins with ~.",
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
        description="The overlay that is merged into the manifest when this target is selected.",
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="The options of its provider, which checks them."
    )


class ComponentConfig(FrozenModel):
    """One kind of worker: what it needs, wherever it runs."""

    name: Name
    image: str | None = Field(default=None, min_length=1, description="Container image.")
    runtime: Literal["apptainer", "singularity", "docker", "podman", "none"] | None = Field(
        default=None,
        description="Container runtime, where the target leaves the choice to the component.",
    )
    nodes: int = Field(
        default=1,
        ge=1,
        description="Nodes of one worker, on the first of which it runs, for tasks that start MPI programs on all. "
        "Memory and GPUs are then those of each node. On Slurm only.",
    )
    ranks: int | None = Field(
        default=None,
        ge=1,
        description="MPI ranks that a task of the worker may start, each with `cpus` cores; one for each node if not "
        "set. On Slurm only.",
    )
    cpus: int = Field(
        default=1, ge=1, description="Cores of one worker, or of each of its MPI ranks."
    )
    memory: Memory | None = Field(
        default=None,
        description="Memory of one worker: 8G is 8·10⁹ bytes, 8Gi is 2³³, a number is bytes.",
    )
    gpus: int = Field(default=0, ge=0, description="GPUs of one worker.")
    slots: int = Field(default=1, ge=1, le=MOST_SLOTS, description="Tasks at a time on one worker.")
    mounts: Mapping[str, ContainerPath] = Field(
        default_factory=dict, description="Host path to absolute path in the container."
    )
    env: Mapping[EnvironmentName, EnvironmentValue] = Field(
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

    @property
    def runs_mpi(self) -> bool:
        """Whether its tasks start MPI programs."""
        return self.nodes > 1 or self.ranks is not None


class TaskConfig(FrozenModel):
    """A task by name, and the component that runs it."""

    name: Name
    component: str = Field(description="The component that runs it.")
    cache: bool = Field(
        default=False,
        description="Whether results are kept in `project.results`, and used by later runs.",
    )
    version: str | int | None = Field(
        default=None,
        description="With `cache`: a change of it makes earlier results no longer count.",
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        description="With `cache`: arguments on which the result does not depend.",
    )
    outputs: Outputs = Field(
        default_factory=dict,
        description="Files that it writes: path by name, with the names of arguments in braces, such as "
        "out/{member}.csv. Without one of them it has failed. With `cache` they are kept, too.",
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

    _document: Place = PrivateAttr(default_factory=Place)
    _warnings: tuple[ValidationIssue, ...] = PrivateAttr(default=())

    def place(self, path: str | KeyPath) -> Place:
        """Return the place of ``targets.hpc``: what is written there and where, which `check_model` takes."""
        return self._document.at(path)

    @property
    def warnings(self) -> tuple[ValidationIssue, ...]:
        """Problems that did not stop the parser; `validate_manifest` reports them too."""
        return self._warnings

    def position(self, path: str | KeyPath) -> Position | None:
        """Return where ``targets.hpc.walltime`` is written; for a missing key, where its parent is.

        None for a manifest that came from Python.
        """
        return self.place(path).position

    def issue(
        self, path: str | KeyPath, code: str, message: str, severity: Severity = "error"
    ) -> ValidationIssue:
        """Return an issue about a place in this manifest, with its position."""
        return self.place(path).issue(code, message, severity)

    def redact(self, text: str) -> str:
        """Return a text with ``${VAR}`` wherever it shows the value of a variable."""
        return self._document.source.redact(text)

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables that it takes from the environment, with their values, which may be secrets."""
        return self._document.source.variables
