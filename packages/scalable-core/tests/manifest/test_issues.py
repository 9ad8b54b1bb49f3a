from __future__ import annotations

from scalable.manifest.issues import ValidationIssue, ValidationReport

ERROR = ValidationIssue("tasks.run", "is wrong", "E_X", file="m", line=3, column=1)
WARNING = ValidationIssue("targets", "is odd", "W_X", "warning", file="m", line=2, column=5)


def test_an_issue_shows_as_much_of_its_position_as_there_is() -> None:
    def shown(path: str, **where: object) -> str:
        return str(ValidationIssue(path, "is wrong", "E_X", **where))  # type: ignore[arg-type]  # its fields

    assert shown("a.b", file="m", line=3, column=1) == "m:3:1 E_X a.b: is wrong"
    assert shown("a.b", file="m", line=3) == "m:3 E_X a.b: is wrong"
    assert shown("a.b", file="m") == "m E_X a.b: is wrong"
    assert shown("a.b") == "E_X a.b: is wrong"
    assert shown("") == "E_X: is wrong"


def test_an_issue_is_one_line_that_does_nothing_to_a_terminal() -> None:
    issue = ValidationIssue("a", "is \x1b[31mred", "E_X", file="two\nlines")
    assert str(issue) == "two\\nlines E_X a: is \\x1b[31mred"


def test_a_report_tells_errors_from_warnings() -> None:
    report = ValidationReport.of([ERROR, WARNING])
    assert (report.errors, report.warnings) == ((ERROR,), (WARNING,))
    assert not report.ok
    assert ValidationReport((WARNING,)).ok


def test_a_report_is_in_the_order_of_the_document_without_duplicates() -> None:
    assert ValidationReport.of([ERROR, WARNING, ERROR]).issues == (WARNING, ERROR)


def test_reports_add_up() -> None:
    one, other = ValidationReport((ERROR,)), ValidationReport((WARNING, ERROR))
    assert one + other == ValidationReport((WARNING, ERROR))
    assert one + ValidationReport() == one
