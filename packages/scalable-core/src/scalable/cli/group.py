"""The ``scalable`` command: its subcommands, and how errors end it."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any

import click

from scalable.cli.check import check
from scalable.cli.failures import INTERRUPTED, USAGE, Failure, report_error
from scalable.cli.init import init
from scalable.cli.logs import logs
from scalable.cli.managed import attach, down, scale
from scalable.cli.options import debug_option, wants_debug, wants_json
from scalable.cli.output import print_json
from scalable.cli.owned import ps, reap
from scalable.cli.plan import plan
from scalable.cli.prices import prices
from scalable.cli.providers import providers
from scalable.cli.report import report
from scalable.cli.results import results
from scalable.cli.resume import resume
from scalable.cli.run import run
from scalable.cli.runs import runs
from scalable.cli.schema import schema
from scalable.cli.streams import open_standard_streams
from scalable.cli.up import up
from scalable.cli.validate import validate

__all__ = ["main"]


EARLIER_COMMANDS = {
    "advise": "`adaptive` in a target sizes its groups while they run, and `scalable plan` shows sizes and cost",
    "compose": "`scalable init` writes a manifest and a workflow to start from",
    "diagnose": "`scalable check` looks before a run, and session.explain() in it",
    "explain": "session.explain() says why workers are missing, and client.explain(future) why a task waits",
    "init-component": "write it under `components` in the manifest; `scalable schema` has every key",
    "migrate": "write the cluster as a target, and each container as a component; `scalable validate` checks them",
}
"""Commands of earlier versions, and what takes their place."""


class _Commands(click.Group):
    """A group that turns every error into one line and an exit status.

    It does so when it is invoked, not when the program starts, so that ``dask scalable`` behaves the same.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        given = list(args)
        open_standard_streams()
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if not given:  # the error is the help text
                raise
            raise _usage(error) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (instead := EARLIER_COMMANDS.get(args[0])) and args[0] not in self.commands:
            raise click.UsageError(f"there is no {args[0]!r} any more: {instead}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise  # the error is the help text
        except click.UsageError as error:
            raise _usage(error) from None
        except KeyboardInterrupt:
            raise _as_json_too(Failure("interrupted", INTERRUPTED), ctx) from None
        except Failure as failure:
            raise _as_json_too(failure, ctx) from failure.__cause__
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # click exits quietly when the pipe is closed
            raise report_error(error, as_json=wants_json(ctx), debug=wants_debug(ctx)) from error


def _as_json_too(failure: Failure, context: click.Context) -> Failure:
    """Return a failure, once programs that have asked for JSON have it."""
    if wants_json(context):
        with suppress(OSError):  # stdout itself may be what failed
            print_json(failure.as_json())
    return failure


def _usage(error: click.UsageError) -> Failure:
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "scalable"
    return Failure(f"{message}; see '{command} --help'", USAGE)


@click.group(
    cls=_Commands, name="scalable", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="scalable-core", prog_name="scalable")
@debug_option
def main() -> None:
    """Run one workflow on a laptop, a Slurm cluster, Kubernetes or a cloud.

    A manifest, scalable.yaml, specifies where it can run and what its workers need.
    """


for command in (
    *(init, validate, plan, check, run, resume, runs, logs, report, results, ps, reap),
    *(up, attach, scale, down, prices, providers, schema),
):
    main.add_command(command)
