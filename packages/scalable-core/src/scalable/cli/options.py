"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["debug_option", "json_option", "manifest_arguments", "wants_debug", "wants_json"]

F = TypeVar("F", bound=Callable[..., Any])

_DEBUG, _JSON = "scalable.debug", "scalable.json"


def wants_json(context: click.Context) -> bool:
    """Return whether ``--json`` was given."""
    return bool(context.meta.get(_JSON))


def wants_debug(context: click.Context) -> bool:
    """Return whether ``--debug`` was given, to a command or to the group."""
    return bool(context.meta.get(_DEBUG))


def json_option(command: F) -> F:
    """Add ``--json``."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.meta[_JSON] = value
        return value

    option = click.option(
        "--json", "as_json", is_flag=True, callback=remember, help="Print JSON, for programs."
    )
    return option(command)


def debug_option(command: F) -> F:
    """Add ``--debug``."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[_DEBUG] = value or wants_debug(context)

    option = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show tracebacks of errors.",
    )
    return option(command)


def manifest_arguments(command: F) -> F:
    """Add the argument for the manifest and the options for its target and overlay."""
    for add in (
        click.option(
            "--overlay", metavar="NAME", help="Overlay to merge instead of the target's own."
        ),
        click.option(
            "-t",
            "--target",
            metavar="NAME",
            help="Target of the manifest; by default $SCALABLE_TARGET, or auto: a Slurm target inside a "
            "Slurm job, else a local one, else the first.",
        ),
        click.argument("manifest", required=False),
    ):
        command = add(command)
    return command
