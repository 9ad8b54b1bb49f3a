"""``scalable providers``: what is installed, and whether it works."""

from __future__ import annotations

from dataclasses import asdict

import click

from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem

__all__ = ["providers"]


@click.command()
@json_option
@debug_option
@click.pass_context
def providers(context: click.Context, as_json: bool) -> None:
    """List the providers that are installed.

    Each is imported to learn whether it works; none of them contacts anything. The exit status is 1 if one does not.
    """
    from scalable.providers.registry import describe_providers

    found = describe_providers(load=True)
    if as_json:
        print_json([{**asdict(info), "status": info.status.value} for info in found])
    elif found:
        rows = [[info.name, info.status, info.distribution, info.version or "-"] for info in found]
        click.echo(as_table(("provider", "status", "distribution", "version"), rows))
    else:
        click.echo("no provider is installed; to begin with: pip install scalable-local")
    problems = [info.problem for info in found if info.problem]
    for problem in problems:
        print_problem(problem)
    if problems:
        context.exit(FAILED)
