"""``scalable validate``: list every problem of a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scalable.cli.failures import USAGE
from scalable.cli.options import debug_option, json_option, manifest_arguments
from scalable.cli.output import issue_as_json, print_issues, print_json, print_text

if TYPE_CHECKING:
    from scalable.manifest.issues import ValidationIssue, ValidationReport
    from scalable.session import ScalableSession

__all__ = ["validate"]

_SELECTED_TARGET_CODES = frozenset({"E_UNSET_VARIABLE", "E_UNKNOWN_PROVIDER", "W_UNKNOWN_PROVIDER"})
"""Problems of a target that matter only if it is selected; the report of the selected target warns about others."""


@click.command()
@manifest_arguments
@json_option
@debug_option
@click.pass_context
def validate(
    context: click.Context,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    as_json: bool,
) -> None:
    """Find every problem of MANIFEST.

    Without --target, every target whose provider is installed is checked. MANIFEST is by default $SCALABLE_MANIFEST,
    or scalable.yaml. Works offline; nothing is started.
    """
    from scalable.session import ScalableSession

    session = ScalableSession.from_yaml(manifest, target=target, overlay=overlay)
    report = session.validate()
    if target is None:
        report += _other_targets(session)
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "manifest": session.manifest.source,
                "target": session.target,
                "issues": [issue_as_json(issue) for issue in report.issues],
            }
        )
    print_issues(report.issues)
    if not report.ok:
        context.exit(USAGE)
    if not as_json:
        print_text(_summary(session))


def _other_targets(session: ScalableSession) -> ValidationReport:
    """Return the problems of the targets that are not selected, if their providers are installed."""
    from scalable.errors import ManifestError, ProviderError
    from scalable.manifest.issues import ValidationReport
    from scalable.providers.base import DeploymentSpec
    from scalable.providers.registry import get_provider
    from scalable.session import ScalableSession

    manifest = session.manifest
    issues: list[ValidationIssue] = []
    for name, target in manifest.targets.items():
        if name == session.target:
            continue
        try:
            if target.overlay is None:
                spec = DeploymentSpec.from_manifest(manifest, target_name=name)
                issues += get_provider(target.provider).validate(spec).issues
            else:
                other = ScalableSession.from_yaml(manifest.source, target=name)
                issues += other.validate().issues
        except ManifestError as error:
            issues += error.issues
        except ProviderError:
            continue  # the selected target's report has a warning about it
    # A laptop need not have the variables of the cluster; the report has warnings about those, too.
    return ValidationReport.of(
        issue for issue in issues if issue.code not in _SELECTED_TARGET_CODES
    )


def _summary(session: ScalableSession) -> str:
    manifest = session.manifest
    parts = (
        (len(manifest.targets), "target"),
        (len(manifest.components), "component"),
        (len(manifest.tasks), "task"),
    )
    counted = ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in parts)
    return f"{manifest.source} is valid: {counted}; target {session.target} ({session.spec.provider_name})"
