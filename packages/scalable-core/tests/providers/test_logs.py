from __future__ import annotations

from pathlib import Path

from scalable.providers.logs import MAX_LOG, tail, tidy_logs


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


def test_the_line_that_is_cut_shows_no_part_of_a_secret(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    line = "token hunter2hunter2\n"
    (logs / "gcam-1.log").write_text(line * (MAX_LOG // len(line) + 1))

    tidy_logs(logs, lambda text: text.replace("hunter2hunter2", "${KEY}"))

    head, *kept = (logs / "gcam-1.log").read_text().splitlines()
    assert head.startswith("[the first ")
    assert set(kept) == {"token ${KEY}"}
