"""``scalable run``: a workflow, from its manifest to its exit status."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli.options import debug_option, json_option, manifest_arguments
from scalable.cli.preparing import Request
from scalable.cli.running import run_workflow
from scalable.cli.workflow import ARGUMENTS, WithArguments, workflow_option

__all__ = ["run"]


@click.command(cls=WithArguments)
@manifest_arguments
@workflow_option
@click.option(
    "--in-cluster",
    is_flag=True,
    help="Run the workflow at the target too, beside the scheduler: it needs no connection to this machine.",
)
@click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Run what `scalable plan --output FILE` has planned, and nothing else.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and run nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show only problems, no progress.")
@json_option
@debug_option
@click.pass_context
def run(
    context: click.Context,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    workflow: Path,
    in_cluster: bool,
    plan_file: Path | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a workflow on a target of MANIFEST.

    Validates, plans and checks limits, then runs the script as Python would. ScalableSession.from_yaml() returns the
    run's session in it, and nothing is started before the script needs workers. They are removed whatever happens, and
    the exit status is the script's own. Progress goes to stderr. Stdout is for the script's output, or with
    --json for the record of the run, which is also kept in .scalable/runs.
    """
    run_workflow(
        context,
        Request(
            manifest=manifest,
            target=target,
            overlay=overlay,
            workflow=workflow,
            arguments=context.meta[ARGUMENTS],
            in_cluster=in_cluster,
            plan_file=plan_file,
            dry_run=dry_run,
            quiet=quiet,
            as_json=as_json,
        ),
    )
