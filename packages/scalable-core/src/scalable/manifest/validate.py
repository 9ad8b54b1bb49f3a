"""Whether a manifest fits together, and whether its providers are there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from scalable.errors import did_you_mean
from scalable.manifest.issues import Position, Severity, ValidationIssue, ValidationReport
from scalable.manifest.references import References, find_dangling

if TYPE_CHECKING:
    from scalable.manifest.schema import ManifestModel

__all__ = ["Position", "Severity", "ValidationIssue", "ValidationReport", "validate_manifest"]


def validate_manifest(
    manifest: ManifestModel, *, known_providers: Collection[str] | None = None
) -> ValidationReport:
    """Find every problem that lies between the parts of a manifest.

    What a provider thinks of its options is the provider's to say.

    Parameters
    ----------
    manifest : ManifestModel
        From `load_manifest` or `parse_manifest`, whose warnings are in the report too.
    known_providers : collection of str, optional
        The providers that are installed; by default, asks the registry.
    """
    if known_providers is None:
        from scalable.providers.registry import iter_provider_names

        known_providers = list(iter_provider_names())
    return ValidationReport.of(
        [
            *manifest.warnings,
            *find_dangling(References.of_manifest(manifest), manifest.source_map),
            *_missing_providers(manifest, known_providers),
        ]
    )


def _missing_providers(
    manifest: ManifestModel, known: Collection[str]
) -> Iterator[ValidationIssue]:
    for name, target in manifest.targets.items():
        if target.provider.strip().lower() in known:
            continue
        selected = name == manifest.selected_target
        message = (
            f"provider {target.provider!r} is not installed{did_you_mean(target.provider, known)}"
        )
        yield manifest.issue(
            ("targets", name, "provider"),
            "E_UNKNOWN_PROVIDER" if selected else "W_UNKNOWN_PROVIDER",
            message,
            "error" if selected else "warning",
        )
