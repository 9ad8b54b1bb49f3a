"""Whether the parts of a manifest fit together, and whether its providers are installed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.errors import UnknownProviderError
from scalable.manifest.issues import Position, Severity, ValidationIssue, ValidationReport
from scalable.manifest.references import References, find_dangling

if TYPE_CHECKING:
    from scalable.manifest.schema import ManifestModel

__all__ = ["Position", "Severity", "ValidationIssue", "ValidationReport", "validate_manifest"]

_MIN_MEMORY = 2**20


def validate_manifest(
    manifest: ManifestModel, *, known_providers: Collection[str] | None = None
) -> ValidationReport:
    """Return every problem between the parts of a manifest.

    Options of a target are checked by its provider.

    Parameters
    ----------
    manifest : ManifestModel
        From `load_manifest` or `parse_manifest`, whose warnings are in the report too.
    known_providers : collection of str, optional
        The providers that are installed; by default, those that the registry finds.
    """
    return ValidationReport.of(
        [
            *manifest.warnings,
            *_find_empty_sections(manifest),
            *_find_tiny_memory(manifest),
            *_find_missing_modules(manifest),
            *_find_unkept(manifest),
            *find_dangling(References.of_manifest(manifest), manifest.place(())),
            *_find_missing_providers(manifest, known_providers),
        ]
    )


def _find_empty_sections(manifest: ManifestModel) -> Iterator[ValidationIssue]:
    if not manifest.targets:
        message = "there is no target; a manifest needs one, such as `local: {provider: local}`"
        yield manifest.issue(("targets",), "E_NO_TARGET", message)
    if not manifest.components:
        message = "there is no component; a manifest needs one, such as `model: {cpus: 1}`"
        yield manifest.issue(("components",), "E_NO_COMPONENT", message)


def _find_tiny_memory(manifest: ManifestModel) -> Iterator[ValidationIssue]:
    for name, component in manifest.components.items():
        if component.memory is not None and component.memory < _MIN_MEMORY:
            message = "is too little for a worker: a number is bytes, 8G is 8·10⁹ bytes"
            path = ("components", name, "memory")
            yield manifest.issue(path, "W_TINY_MEMORY", message, "warning")


def _find_missing_modules(manifest: ManifestModel) -> Iterator[ValidationIssue]:
    if manifest.source is None:
        return  # paths are relative to the file
    directory = Path(manifest.source).absolute().parent
    for index, module in enumerate(manifest.project.modules or ()):
        if not (directory / module).exists():
            place = manifest.place(("project", "modules", index))
            name = place.scalar.written if place.scalar else module
            message = f"there is no {name!r} in the directory of the manifest; correct the path, or remove it"
            yield place.issue("E_NO_FILE", message)


def _find_unkept(manifest: ManifestModel) -> Iterator[ValidationIssue]:
    """Yield an issue for each task whose results have no place, and for each option of results that are not kept."""
    project = manifest.project
    if project.results and project.default_storage:
        message = "is another name of `results`, which is given too; remove one of them"
        yield manifest.issue(("project", "default_storage"), "E_BAD_VALUE", message)
    if project.local_cache and not (project.results or project.default_storage):
        message = "is for copies of results, which are not kept; set project.results, or remove it"
        yield manifest.issue(("project", "local_cache"), "E_NO_RESULTS", message)
    for name, task in manifest.tasks.items():
        for output, path in task.outputs.items():
            if path.isidentifier():
                message = (
                    f"is a file that is called {path!r}, without which the task has failed; if that is what it is, "
                    f"write ./{path}; an earlier version had kinds here, for which there are now paths, such as "
                    f"out/{output}.csv"
                )
                yield manifest.issue(
                    ("tasks", name, "outputs", output), "W_OUTPUT_KIND", message, "warning"
                )
        if task.cache and not (project.results or project.default_storage):
            message = (
                "there is no place to keep results; set project.results to a directory or a URL"
            )
            yield manifest.issue(("tasks", name, "cache"), "E_NO_RESULTS", message)
        for option in ("version", "ignore"):
            if getattr(task, option) and not task.cache:
                message = "is of no use without `cache: true`; add that, or remove this"
                yield manifest.issue(("tasks", name, option), "E_NO_CACHE", message)


def _find_missing_providers(
    manifest: ManifestModel, known: Collection[str] | None
) -> Iterator[ValidationIssue]:
    # Here, because looking for installed distributions takes tens of milliseconds.
    from scalable.providers.registry import install_hint, iter_provider_names

    installed = {*iter_provider_names()} if known is None else {*known}
    for name, target in manifest.targets.items():
        if target.provider.strip().lower() in installed:
            continue
        place = manifest.place(("targets", name, "provider"))
        written = place.scalar.written if place.scalar else target.provider
        message = str(UnknownProviderError(written, installed, install_hint(target.provider)))
        if name == manifest.selected_target:
            yield place.issue("E_UNKNOWN_PROVIDER", message)
        else:
            yield place.issue("W_UNKNOWN_PROVIDER", message, "warning")
