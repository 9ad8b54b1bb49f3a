"""The report of a run: what is in it, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path

import pytest
from recorded_run import recorded_run

from scalable.runs.report import render_report

Scalable = Callable[..., subprocess.CompletedProcess[str]]

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

MEASURE = """
<script>
const root = document.documentElement;
const wide = [...document.querySelectorAll("main *")].filter(
  each => !each.closest(".wide, svg, .axis") && each.getBoundingClientRect().right > root.clientWidth + 1);
const channels = text => text.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3;
const style = getComputedStyle(document.body);
parent.document.title = JSON.stringify({
  width: innerWidth,
  scrolls: root.scrollWidth > root.clientWidth,
  wide: wide.map(each => each.outerHTML.slice(0, 80)),
  text: channels(style.color),
  back: channels(style.backgroundColor),
  lanes: [...document.querySelectorAll(".lane svg")].map(each => each.getBoundingClientRect().width),
  smallest: Math.min(...[...document.querySelectorAll("p, td, th, small, dd, i, span")]
    .filter(each => each.innerText).map(each => parseFloat(getComputedStyle(each).fontSize))),
});
</script>
"""


def test_everything_of_a_run_is_in_one_file_without_links_to_elsewhere() -> None:
    document, tasks, workers = recorded_run()

    page = render_report(document, tasks, workers, frozenset({"gcam-2"}))

    text = unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))
    for expected in (
        "ensembles/workflow.py",
        "cloud (aws)",
        "ValueError('no data in /a/rather/long",
        "8 GB",
        "7.59 GB",
        "2 results of run lost",
        "Planned: 2.4 USD an hour. This run: 1.7900 USD. Without a known price: plots GPUs.",
        "launched 9",
        "numpy",
    ):
        assert expected in text, expected
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["logs/gcam-2.log"]
    assert "url(" not in page
    assert "http" not in page
    # What a record says is text, whatever it looks like.
    assert "<script" not in page
    assert "used more memory than its 8G" in page


def test_a_run_without_workers_has_a_report() -> None:
    document, _, _ = recorded_run()
    document |= {"summary": {}, "ended": None, "status": "running"}

    page = render_report(document, [], [])

    assert "No worker was started." in page
    assert "No task has ended." in page


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome on this machine")
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("n_workers", [12, 80])
def test_a_browser_shows_it_in_its_width(
    tmp_path: Path, width: int, dark: bool, n_workers: int
) -> None:
    document, tasks, workers = recorded_run(n_workers, 40 * n_workers)
    page = render_report(document, tasks, workers).replace("</body>", f"{MEASURE}</body>")
    # In a frame, because no window of a browser is as narrow as a telephone.
    (tmp_path / "frame.html").write_text(
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<iframe width="{width}" height="2000" style="border:0" srcdoc="{escape(page)}"></iframe>',
        encoding="utf-8",
    )
    assert BROWSER is not None

    shown = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *([f"--blink-settings=preferredColorScheme={0 if dark else 1}"]),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,2000"),
            *("--dump-dom", f"file://{tmp_path / 'frame.html'}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    found = re.search(r"<title>(.*?)</title>", shown.stdout, re.DOTALL)
    assert found, shown.stderr
    measured = json.loads(unescape(found[1]))
    assert measured["width"] == width
    assert not measured["scrolls"]
    assert measured["wide"] == []
    assert measured["smallest"] >= 11
    assert (measured["text"] > measured["back"]) is dark
    assert abs(measured["text"] - measured["back"]) > 150
    assert min(measured["lanes"]) > 0.7 * (width - 60)


def test_the_command_writes_it_for_its_owner(scalable: Scalable, project: Path) -> None:
    (project / "workflow.py").write_text(
        "import yaml\n"
        "from scalable.session import ScalableSession\n"
        "with ScalableSession.from_yaml() as client:\n"
        "    print(client.submit(sum, [1, 2], tag='fair').result())\n"
    )
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("n_workers: 1", "n_workers: 1, price: 3.6"))
    assert scalable("run", "-w", "workflow.py").returncode == 0

    told = scalable("report")

    path = project / told.stdout.strip()
    assert path.name == "report.html"
    assert path.stat().st_mode & 0o777 == 0o600
    page = path.read_text()
    assert "sum" in page
    record = json.loads((path.parent / "record.json").read_text())
    assert set(record["packages"]) == {"scalable", "yaml"} - (
        {"scalable"} - set(record["packages"])
    )
    cost = record["summary"]["cost"]
    assert (cost["currency"], cost["estimated_hourly"]) == ("USD", "7.2")
    hours = record["summary"]["worker_hours"]
    assert float(cost["actual"]) == pytest.approx(3.6 * sum(hours.values()), abs=2e-4)
    (task,) = [json.loads(line) for line in (path.parent / "tasks.jsonl").read_text().splitlines()]
    assert task["peak_memory"] > 10_000_000
    assert 0 <= task["cpu_seconds"] < 60
    assert task["ready"] <= task["ended"]
    workers = [
        json.loads(line) for line in (path.parent / "workers.jsonl").read_text().splitlines()
    ]
    last = {row["worker"]: row for row in workers}
    assert {row["component"] for row in last.values()} == {"fair", "gcam"}
    for row in last.values():
        assert row["launched"] <= row["started"] <= row["joined"] <= row["ended"]

    elsewhere = json.loads(scalable("report", "latest", "-o", "r.html", "--json").stdout)
    assert elsewhere["path"] == "r.html"
    assert (project / "r.html").exists()
    assert scalable("report", "nothing").returncode == 2
