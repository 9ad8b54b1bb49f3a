"""A workflow on a command line: its script, compiled before anything is started, and its arguments."""

from __future__ import annotations

import shlex
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli.failures import FAILED, USAGE, Failure
from scalable.cli.script import compile_script

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["ARGUMENTS", "WithArguments", "compile_workflow", "workflow_option"]

ARGUMENTS = "scalable.arguments"
"""Key of the workflow's arguments in the ``meta`` of a command's context."""


class WithArguments(click.Command):
    """A command that keeps everything after ``--`` for the workflow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what is before ``--``."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[ARGUMENTS] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the parts of the usage line, with the arguments."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


workflow_option = click.option(
    "-w",
    "--workflow",
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The Python script to run, with ARGS as its arguments.",
)


def compile_workflow(workflow: Path) -> CodeType:
    """Compile a script, before anything is started or asked for."""
    if workflow.suffix in (".yaml", ".yml"):
        raise Failure(
            f"{workflow} is a manifest, not a Python program; a run takes both, each in its place: "
            f"`scalable run {workflow} --workflow workflow.py`",
            USAGE,
        )
    if workflow.suffix == ".ipynb":
        raise Failure(
            f"{workflow} is a notebook, not a Python program; make one of it with "
            f"`jupyter nbconvert --to script {shlex.quote(str(workflow))}`",
            USAGE,
        )
    # What a shell passes, as in <(cat workflow.py), is read once and does.
    is_passed = workflow.is_fifo() and workflow.is_relative_to("/dev")
    if not (workflow.is_file() or is_passed):
        raise Failure(
            f"{workflow} is a pipe or a device, not a Python program; write the program to a file",
            USAGE,
        )
    try:
        return compile_script(workflow)
    except (SyntaxError, ValueError) as error:
        # Before anything costs money. Shown as Python does, with the line and without frames.
        *place, what = traceback.format_exception_only(error)
        where = place or [f'  File "{workflow}"\n']
        raise Failure("".join([what, *where]), FAILED) from error
