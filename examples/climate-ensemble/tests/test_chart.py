from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from chart import fan_chart
from ensemble import SCENARIOS, YEARS, Projection, project

COLOURS = {"RCP2.6": "#003466", "RCP4.5": "#70A0CD", "RCP6.0": "#C47900", "RCP8.5": "#990002"}


def _projection(slope: float) -> Projection:
    slopes = slope * np.linspace(0.5, 1.5, 11)
    return project([slopes[:, np.newaxis] * np.maximum(YEARS - 1880, 0)])


@pytest.fixture(scope="module")
def projections() -> dict[str, Projection]:
    return {name: _projection(0.01 * (i + 1)) for i, name in enumerate(SCENARIOS)}


def _columns(png: bytes, colour: str) -> np.ndarray:
    """Which columns of the picture have pixels of that colour."""
    pixels = imread(io.BytesIO(png))[..., :3]
    return np.flatnonzero((abs(pixels - to_rgb(colour)) < 1 / 255).all(axis=-1).any(axis=0))


def test_the_chart_has_every_scenario_in_its_colour_from_left_to_right(
    projections: dict[str, Projection],
) -> None:
    png = fan_chart(projections)
    columns = [_columns(png, COLOURS[name]) for name in SCENARIOS]
    for left, right in pairwise(columns):
        assert left.max() < right.min()
    # A median runs through the better part of its panel; a title alone would not.
    assert min(len(c) for c in columns) > 200


def test_the_same_projections_give_the_same_file(projections: dict[str, Projection]) -> None:
    assert fan_chart(projections) == fan_chart(projections)


def test_one_scenario_alone_can_be_drawn(projections: dict[str, Projection]) -> None:
    png = fan_chart({"RCP6.0": projections["RCP6.0"]})
    assert len(_columns(png, COLOURS["RCP6.0"])) > 200
    assert len(_columns(png, COLOURS["RCP8.5"])) == 0
