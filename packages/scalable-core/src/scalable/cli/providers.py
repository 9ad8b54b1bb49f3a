"""``scalable providers``: which providers are installed, and whether they work."""

from __future__ import annotations

from dataclasses import asdict

import click

from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem, print_text

__all__ = ["providers"]


@click.command()
@json_option
@debug_option
@click.pass_context
def providers(context: click.Context, as_json: bool) -> None:
    """List the installed providers.

    Each is imported to check whether it works; none contacts anything. The exit status is 1 if one does not work.
    """
    from scalable.providers.registry import describe_providers

    found = describe_providers(load=True)
    if as_json:
        print_json([{**asdict(info), "status": info.status.value} for info in found])
    elif found:
        rows = [[info.name, info.status, info.distribution, info.version or "-"] for info in found]
        print_text(as_table(("provider", "status", "distribution", "version"), rows))
    else:
        print_text("no provider is installed; to start: pip install scalable-local")
    problems = [info.problem for info in found if info.problem]
    for problem in problems:
        print_problem(problem)
    if problems:
        context.exit(FAILED)
