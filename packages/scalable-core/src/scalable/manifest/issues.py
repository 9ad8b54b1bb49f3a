"""A problem in a manifest, and a report of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

__all__ = ["Position", "Severity", "ValidationIssue", "ValidationReport", "one_line"]

Severity = Literal["error", "warning"]
"""How serious a problem is: an error ends a run before it starts."""


_MAX_LENGTH = 1_000


def one_line(text: str) -> str:
    r"""Return a message as one line of readable length.

    Examples
    --------
    >>> one_line("is wrong:\n    see above")
    'is wrong: see above'
    """
    line = " ".join(text.split())
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]}…"


class Position(NamedTuple):
    """Where something is written; lines and columns are counted from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True)
class ValidationIssue:
    """One problem.

    Parameters
    ----------
    path : str
        The place in the manifest, ``targets.hpc.walltime``; empty for the document as a whole.
    message : str
        What is wrong and what to do, in one line. Shows ``${VAR}``, never its value.
    code : str
        Stable: ``E_…`` for an error, ``W_…`` for a warning.
    severity : {"error", "warning"}
        An error makes the manifest unusable, a warning does not.
    file : str or None
        Where it is written; None for a manifest that came from Python.
    line, column : int or None
        Counted from 1.

    Examples
    --------
    >>> issue = ValidationIssue("targets.hpc.max_wrokers", "unknown key", "E_UNKNOWN_KEY",
    ...                         file="scalable.yaml", line=14, column=5)
    >>> print(issue)
    scalable.yaml:14:5 E_UNKNOWN_KEY targets.hpc.max_wrokers: unknown key
    """

    path: str
    message: str
    code: str
    severity: Severity = "error"
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = self.file or ""
        if where and self.line is not None:
            where += f":{self.line}"
            if self.column is not None:
                where += f":{self.column}"
        what = f"{self.code} {self.path}" if self.path else self.code
        return _escape(f"{where} {what}: {self.message}".lstrip())


def _escape(text: str) -> str:
    """Escape what would break the line or control the terminal; a file name or a key may contain anything."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


@dataclass(frozen=True)
class ValidationReport:
    """Every problem that was found, in the order of the manifest.

    The sum of two reports lists a problem that is in both only once.

    Examples
    --------
    >>> report = ValidationReport() + ValidationReport((ValidationIssue("tasks", "none", "W_X", "warning"),))
    >>> report.ok, len(report.warnings)
    (True, 1)
    """

    issues: tuple[ValidationIssue, ...] = ()

    @property
    def errors(self) -> tuple[ValidationIssue, ...]:
        """The problems that make the manifest unusable."""
        return tuple(issue for issue in self.issues if issue.severity == "error")

    @property
    def warnings(self) -> tuple[ValidationIssue, ...]:
        """The problems that do not."""
        return tuple(issue for issue in self.issues if issue.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def __add__(self, other: ValidationReport) -> ValidationReport:
        return ValidationReport.of((*self.issues, *other.issues))

    @classmethod
    def of(cls, issues: Iterable[ValidationIssue]) -> Self:
        """Return a report of these, without duplicates, in the order of their positions."""
        unique = dict.fromkeys(issues)
        return cls(tuple(sorted(unique, key=lambda i: (i.line or 0, i.column or 0))))
