"""How errors end a command: a line for each on stderr, and an exit status.

====  =======================================================================
0     success
1     the work failed
2     the command line, the manifest or the environment is wrong; nothing ran
130   Ctrl-C ended it: 128 + SIGINT, as in shells
====  =======================================================================
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import IO, Any

import click

from scalable.cli.output import issue_as_json, print_issues, print_json, print_problem
from scalable.errors import (
    ClusterError,
    ManifestError,
    ScalableError,
    ValidationFailedError,
)

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "Failure",
    "ReportedFailure",
    "exit_status",
    "report_error",
]

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Failure(click.ClickException):
    """Ends a command: `click` shows the message and exits with `exit_code`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # of the instance here, of the class in click

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        what = type(self.__cause__ or self).__name__
        return {"ok": False, "error": {"type": what, "message": self.message}, "issues": []}

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on stderr."""
        first, *more = self.message.splitlines() or [""]
        if first:
            print_problem(first)
        for line in more:
            click.echo(line, err=True)


class ReportedFailure(Failure):
    """Ends a command whose user has been told already, each problem in its place."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print nothing more."""


def exit_status(error: BaseException) -> int:
    """Return the exit status for the exception that ended a command or script.

    Examples
    --------
    >>> from scalable.errors import UnknownTagError
    >>> [exit_status(e) for e in (SystemExit(), SystemExit(3), SystemExit("no"), KeyboardInterrupt(), OSError())]
    [0, 3, 1, 130, 1]
    >>> exit_status(UnknownTagError("gcm", ["gcam"]))
    2
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    is_usage_error = isinstance(error, ScalableError) and not isinstance(error, ClusterError)
    return USAGE if is_usage_error else FAILED


def report_error(error: Exception, *, as_json: bool, debug: bool) -> Failure:
    """Print an error as far as the options request it, and return the failure that ends the command.

    Parameters
    ----------
    error : Exception
        Any exception. One that is not Scalable's own is reported as unexpected.
    as_json : bool
        Also print it on stdout, for programs.
    debug : bool
        Also print its traceback.
    """
    if debug:
        traceback.print_exception(error)
    message, code = str(error), exit_status(error)
    if configuration := _dask_configuration(error):
        message, code = configuration, USAGE
    elif isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, ScalableError):
        message = f"unexpected {type(error).__name__}: {error}; --debug shows where it came from"
    if isinstance(error, ManifestError):
        issues = error.issues
    elif isinstance(error, ValidationFailedError):
        issues = error.report.issues
    else:
        issues = ()
    if as_json:
        with suppress(OSError):  # stdout itself may be what failed
            print_json(
                {
                    "ok": False,
                    "error": {"type": type(error).__name__, "message": message},
                    "issues": [issue_as_json(issue) for issue in issues],
                }
            )
    if issues:
        print_issues(issues)
        message = ""
    return Failure(message, code)


def _dask_configuration(error: Exception) -> str:
    """Return what is wrong with Dask's configuration, if importing Dask has failed because of it; empty otherwise."""
    modules = {f.f_globals.get("__name__") for f, _ in traceback.walk_tb(error.__traceback__)}
    if not modules & {"dask.config", "distributed.config"}:
        return ""
    what = ""
    if "dask.config" not in modules:
        import dask.config

        keys = ("distributed.logging-file-config", "logging-file-config")
        file = next(filter(None, (dask.config.get(key, None) for key in keys)), None)
        # Not every Python says of a file that it does not exist.
        what = f"the key logging-file-config in it, {file}: " if file else "the key logging in it: "
    return (
        f"Dask's configuration cannot be used: {what}{' '.join(str(error).split())}; correct it: "
        "it is in files of /etc/dask, of ~/.config/dask and of $DASK_CONFIG, and in variables that begin with DASK_"
    )
