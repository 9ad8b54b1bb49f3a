"""What commands print: results on stdout, problems on stderr, one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from scalable.manifest.issues import Severity, ValidationIssue
    from scalable.session import ScalableSession

__all__ = [
    "as_table",
    "issue_as_json",
    "print_issues",
    "print_json",
    "print_note",
    "print_problem",
    "print_status",
    "print_text",
    "print_warnings",
]


def print_json(document: Any) -> None:
    """Print a document as JSON, for programs; what stdout cannot show is escaped as in JSON."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    with _naming_stdout():
        click.echo(text)


def print_text(text: str, *, end: str = "\n") -> None:
    """Print a result on stdout; what that cannot show, such as a name in another encoding, is escaped."""
    encoding = _encoding()
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    with _naming_stdout():
        click.echo(shown + end, nl=False)


@contextmanager
def _naming_stdout() -> Iterator[None]:
    """Within the block, let errors of the system, such as that a disk is full, name where the output goes."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def print_status(text: str) -> None:
    """Print a status message on stderr; does nothing if stderr is closed."""
    with suppress(OSError):
        click.echo(f"scalable: {text}", err=True)


def print_problem(message: str, *, severity: Severity = "error", where: str = "") -> None:
    """Print a problem on stderr in the format of compilers, so that editors and terminals link to its place."""
    lead = f"{where}: " if where else ""
    label = click.style(severity, fg="red" if severity == "error" else "yellow")
    click.echo(f"{lead}{label}: {message}", err=True)


def print_note(message: str) -> None:
    """Print on stderr what is good to know and no problem."""
    click.echo(f"{click.style('note', fg='cyan')}: {message}", err=True)


def print_issues(issues: Iterable[ValidationIssue]) -> None:
    """Print problems of a manifest on stderr."""
    for issue in issues:
        where = ":".join(str(part) for part in (issue.file, issue.line, issue.column) if part)
        what = f"{issue.path}: {issue.message}" if issue.path else issue.message
        print_problem(f"{what} [{issue.code}]", severity=issue.severity, where=where)


def print_warnings(session: ScalableSession) -> None:
    """Print warnings, except those about targets other than the session's, which ``scalable validate`` reports."""
    others = tuple(
        f"targets.{name}." for name in session.manifest.targets if name != session.target
    )
    warnings = session.validate().warnings
    print_issues(issue for issue in warnings if not issue.path.startswith(others))


def issue_as_json(issue: ValidationIssue) -> dict[str, Any]:
    """Return an issue as JSON values."""
    return {
        "severity": issue.severity,
        "code": issue.code,
        "path": issue.path,
        "message": issue.message,
        "file": issue.file,
        "line": issue.line,
        "column": issue.column,
    }


def as_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as a table in columns, with numbers aligned to the right.

    Examples
    --------
    >>> print(as_table(["group", "workers"], [["gcam", 4], ["analysis", 12]]))
    group     workers
    gcam            4
    analysis       12
    """
    columns = [_column(cells) for cells in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _column(cells: tuple[object, ...]) -> list[str]:
    texts = [str(cell) for cell in cells]
    width = max(map(len, texts))
    to_the_right = len(cells) > 1 and all(isinstance(cell, int) for cell in cells[1:])
    return [text.rjust(width) if to_the_right else text.ljust(width) for text in texts]
