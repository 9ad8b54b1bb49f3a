"""``scalable check``: whether a run could start. Queries the target's site, and changes nothing there."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option, manifest_arguments
from scalable.cli.output import (
    as_table,
    print_json,
    print_note,
    print_problem,
    print_status,
    print_text,
    print_warnings,
)

if TYPE_CHECKING:
    from scalable.manifest.issues import Severity
    from scalable.providers.base import CheckResult
    from scalable.session import ScalableSession

__all__ = ["check"]

_VERDICTS = {True: "ok", False: "fails", None: "unsure"}


@click.command()
@manifest_arguments
@json_option
@debug_option
@click.pass_context
def check(
    context: click.Context,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    as_json: bool,
) -> None:
    """Check whether a run of MANIFEST could start on its target.

    Validates first, then checks the site: tools, credentials, limits, images. Read-only, except that a store of
    results is made if it is not there. Without --target, only the
    target is checked that a run would use, and the others are named. The exit status is 1 if any check fails.
    """
    from scalable.errors import ValidationFailedError
    from scalable.providers.base import Preflights
    from scalable.session import ScalableSession

    session = ScalableSession.from_yaml(manifest, target=target, overlay=overlay)
    report = session.validate()
    if not report.ok:
        raise ValidationFailedError(report)
    provider = session.provider
    results = list(provider.preflight(session.spec)) if isinstance(provider, Preflights) else []
    results += _check_store(session)
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        print_warnings(session)
        _show(results, provider.name)
        others = [name for name in session.manifest.targets if name != session.target]
        if target is None and others:
            print_note(
                f"this was target {session.target!r}; --target checks another: {', '.join(others)}"
            )
    if any(result.ok is False for result in results):
        context.exit(FAILED)


def _check_store(session: ScalableSession) -> list[CheckResult]:
    """Return whether results can be kept, if the manifest says where."""
    from scalable.errors import ResultStoreError
    from scalable.providers.base import CheckResult

    try:
        results = session.open_results()
    except ResultStoreError as error:
        remedy = "see project.results"
        return [CheckResult("results", False, str(error), remedy)]
    if results is None:
        return []
    return [CheckResult("results", True, f"{results.store.shown} can be read and written")]


def _show(results: list[CheckResult], provider: str) -> None:
    if not results:
        print_status(f"provider {provider!r} has no checks beyond those of `scalable validate`")
        return
    rows = [[_VERDICTS[result.ok], result.name, result.detail] for result in results]
    print_text(as_table(("verdict", "check", "finding"), rows))
    for result in results:
        if result.remedy and not result.ok:
            severity: Severity = "error" if result.ok is False else "warning"
            print_problem(f"{result.name}: {result.remedy}", severity=severity)
