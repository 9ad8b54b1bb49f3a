from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensemble import PERCENTILES, YEARS, Projection
from workflow import main, table


def test_the_table_has_median_and_range_of_each_scenario() -> None:
    annual = np.zeros((len(PERCENTILES), len(YEARS)))
    projections = {
        "RCP2.6": Projection(100, annual, np.array([1.074, 1.3, 1.676, 2.1, 2.318])),
        "RCP8.5": Projection(100, annual, np.array([2.966, 3.6, 4.484, 5.3, 6.104])),
    }
    assert table(projections) == (
        "Warming of 2081–2100 above 1861–1880\n"
        "\n"
        "scenario  members  median  5–95 %\n"
        "RCP2.6        100  1.68 K  1.07–2.32 K\n"
        "RCP8.5        100  4.48 K  2.97–6.10 K"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--samples", "0"], "--samples must be at least 1, not 0"),
        (["--seed", "-1"], "--seed must not be negative, not -1"),
        (["--out", "nowhere/warming.png"], "there is no directory nowhere; create it first"),
        (["--out", "."], "--out: . is a directory; name a file"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(complaint)
