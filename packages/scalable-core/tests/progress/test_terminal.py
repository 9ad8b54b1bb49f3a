"""The status area, checked on an emulated terminal."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest
from rich.console import Console

from scalable.progress.terminal import StatusArea


class Terminal(io.StringIO):
    """A terminal that supports line feeds, carriage returns, and the two control sequences that the area uses."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines, row, column = [""], 0, 0
        for code, count, char in re.findall(
            r"\x1b\[(\d*)([A-Zm])|(.|\n|\r)", self.getvalue(), re.S
        ):
            if count == "A":
                row, column = max(0, row - int(code)), column
            elif count == "J":
                lines[row:] = [lines[row][:column]]
            elif char == "\n":
                row, column = row + 1, 0
                if row == len(lines):
                    lines.append("")
            elif char == "\r":
                column = 0
            elif char:
                lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
                column += 1
        return lines


@contextmanager
def area_on(terminal: Terminal) -> Iterator[StatusArea]:
    """Use `terminal` for this process, with an area. Not a fixture, because pytest would restore its own streams."""
    area = StatusArea(Console(file=terminal, force_terminal=True, width=20, no_color=True))
    with redirect_stdout(terminal), redirect_stderr(terminal), area.below_output():
        yield area


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_the_area_is_replaced_by_its_next_state(terminal: Terminal) -> None:
    with area_on(terminal) as area:
        area.show("one\ntwo")
        area.show("three")

        assert terminal.screen == ["three", ""]


def test_output_goes_above_the_area(terminal: Terminal) -> None:
    with area_on(terminal) as area:
        area.show("status")
        print("output")
        assert terminal.screen == ["output", ""]
        area.show("status")
        print("problem", file=sys.stderr)
        area.show("status")

        assert terminal.screen == ["output", "problem", "status", ""]


def test_an_unfinished_line_is_not_overwritten(terminal: Terminal) -> None:
    with area_on(terminal) as area:
        area.show("status")
        print("10 %", end="")
        area.show("status")
        print("\r20 %", end="")
        area.show("status")
        assert terminal.screen == ["20 %"]
        print()
        area.show("status")

        assert terminal.screen == ["20 %", "status", ""]


def test_a_line_that_is_too_long_is_cut(terminal: Terminal) -> None:
    with area_on(terminal) as area:
        area.show("a status that is longer than the terminal is wide")
        area.show("short")

        assert terminal.screen == ["short", ""]


def test_long_lines_of_output_are_not_touched(terminal: Terminal) -> None:
    with area_on(terminal):
        print("word " * 20)

        assert terminal.screen[0] == "word " * 20


def test_nothing_is_left_in_the_end(terminal: Terminal) -> None:
    with area_on(terminal) as area:
        area.show("status")

    assert terminal.screen == [""]


def test_a_redirected_stream_is_not_touched(terminal: Terminal) -> None:
    file = io.StringIO()
    area = StatusArea(Console(file=terminal, force_terminal=True, width=20))
    with redirect_stdout(file), redirect_stderr(terminal), area.below_output():
        assert sys.stdout is file
        assert sys.stderr is not terminal


def test_a_stream_above_the_area_is_still_the_stream(terminal: Terminal) -> None:
    with area_on(terminal):
        sys.stdout.writelines(["a\n", "b\n"])

        assert sys.stdout.isatty()
        assert terminal.getvalue() == "a\nb\n"
