from __future__ import annotations

from pathlib import Path

from scalable.providers.logs import tail


def test_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))

    assert tail(log, lines=3) == "line 97\nline 98\nline 99"


def test_the_last_bytes_without_a_cut_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 10_000 + b"\n" + b"b" * 100 + b"\n" + b"c" * 100)

    assert tail(log, size=250) == "b" * 100 + "\n" + "c" * 100


def test_one_endless_line_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 10_000)

    assert tail(log, size=250) == "a" * 250


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"caf\xe9\n")

    assert tail(log) == "caf\ufffd"


def test_no_log_reads_as_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
    assert tail(tmp_path) == ""
