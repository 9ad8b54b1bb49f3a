"""``scalable init``: files to start from."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import print_json

__all__ = ["init"]

_FILES = ("scalable.yaml", "workflow.py")


@click.command()
@click.argument(
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="[DIRECTORY]",
)
@json_option
@debug_option
def init(directory: Path, as_json: bool) -> None:
    """Write a manifest and a workflow to start from.

    Both run as they are. Nothing is overwritten: if either is in DIRECTORY already, neither is written.
    """
    there = [name for name in _FILES if (directory / name).exists()]
    if there:
        raise Failure(
            f"{directory / there[0]} exists, and nothing is overwritten; choose another directory",
            USAGE,
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            content = files("scalable.cli").joinpath("starter", name).read_text(encoding="utf-8")
            # "x", so that a file that has appeared in the meantime is not overwritten either.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise Failure(
            f"{error.filename}: {error.strerror}; choose a directory that you can write to", USAGE
        ) from error
    written = [str(directory / name) for name in _FILES]
    if as_json:
        print_json({"written": written})
    else:
        manifest, workflow = written
        click.echo(f"wrote {manifest} and {workflow}; run them with:")
        click.echo(f"  {shlex.join(['scalable', 'run', manifest, '--workflow', workflow])}")
