from __future__ import annotations

from pathlib import Path

import fair
import numpy as np
import pytest
from fair.forward import fair_scm
from fair.RCPs import rcp85

from ensemble import (
    BASELINE,
    END_OF_CENTURY,
    SCENARIOS,
    YEARS,
    draw_climates,
    project,
    simulate,
    warming,
)

# FaIR 1.6 assigns arrays of one element to numbers; the requirements keep NumPy where that works.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

CENTRAL = np.array([[1.75, 3.0]])
PERCENTILES = np.array([5, 17, 50, 83, 95])


@pytest.mark.parametrize(
    ("scenario", "kelvin"),
    [("RCP2.6", 1.63), ("RCP4.5", 2.55), ("RCP6.0", 3.15), ("RCP8.5", 4.77)],
)
def test_the_central_climate_warms_in_2100_as_fair_says(scenario: str, kelvin: float) -> None:
    (temperature,) = simulate(scenario, CENTRAL)
    assert temperature[YEARS == 2100].item() == pytest.approx(kelvin, abs=0.005)


def test_ending_in_2100_changes_no_year_before() -> None:
    _, _, to_2500 = fair_scm(emissions=rcp85.Emissions.emissions, tcrecs=CENTRAL[0])
    (to_2100,) = simulate("RCP8.5", CENTRAL)
    assert list(rcp85.Emissions.year[: len(YEARS)]) == list(YEARS)
    np.testing.assert_array_equal(to_2100, to_2500[: len(YEARS)])


def test_members_come_in_the_order_of_their_climates() -> None:
    climates = draw_climates(3, seed=0)
    together = simulate("RCP4.5", climates)
    alone = [simulate("RCP4.5", climates[[i]])[0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("seed", range(20))
def test_no_climate_warms_more_in_transit_than_in_equilibrium(seed: int) -> None:
    tcr, ecs = draw_climates(1000, seed).T
    assert (tcr > 0).all()
    assert (tcr < ecs).all()


def test_the_draw_follows_the_assessed_ranges() -> None:
    drawn = draw_climates(100_000, seed=0)
    np.testing.assert_allclose(
        np.percentile(drawn, (5, 95), axis=0), [[1.2, 2.0], [2.4, 5.0]], rtol=0.01
    )


def test_the_draw_is_correlated_as_the_cmip5_models_are() -> None:
    table = Path(fair.__file__).parent / "tools/tcrecs/cmip5tcrecs.csv"
    models = np.loadtxt(table, delimiter=",", skiprows=3)

    def correlation(climates: np.ndarray) -> float:
        return float(np.corrcoef(climates[:, 0], np.log(climates[:, 1]))[0, 1])

    assert correlation(draw_climates(100_000, seed=0)) == pytest.approx(
        correlation(models), abs=0.01
    )


def test_a_seed_fixes_the_draw_and_a_larger_one_continues_it() -> None:
    few, many = draw_climates(10, seed=7), draw_climates(1000, seed=7)
    np.testing.assert_array_equal(few, many[:10])
    assert not np.array_equal(few, draw_climates(10, seed=8))


def test_warming_is_relative_to_each_members_own_baseline() -> None:
    ramp = 0.01 * (YEARS - 1765.0)
    warmed = warming(np.stack([ramp, ramp + 5]))
    middle = sum(BASELINE) / 2
    np.testing.assert_allclose(warmed, [0.01 * (YEARS - middle)] * 2, atol=1e-12)


def test_a_projection_is_the_percentiles_of_what_each_member_does() -> None:
    slopes = np.arange(101.0)
    members = slopes[:, np.newaxis] * (YEARS - 1765) / 1000
    projection = project(np.array_split(members, 7))

    assert projection.members == 101
    # Of slopes 0, 1, …, 100 the p-th percentile is p.
    to_end = (sum(END_OF_CENTURY) - sum(BASELINE)) / 2 / 1000
    np.testing.assert_allclose(projection.end_of_century, to_end * PERCENTILES)
    to_2100 = (2100 - sum(BASELINE) / 2) / 1000
    np.testing.assert_allclose(projection.annual[:, -1], to_2100 * PERCENTILES)


def test_the_end_of_the_century_is_averaged_before_it_is_ranked() -> None:
    # Two members that cross within the period: their means are equal, their years are not.
    last_years = YEARS[-20:]
    crossing = np.zeros((2, len(YEARS)))
    crossing[0, -20:] = last_years - last_years.mean()
    crossing[1, -20:] = last_years.mean() - last_years
    np.testing.assert_allclose(project([crossing]).end_of_century, 0, atol=1e-12)


def test_scenarios_are_in_the_order_of_their_forcing() -> None:
    ends = [project([simulate(s, CENTRAL)]).end_of_century[2] for s in SCENARIOS]
    assert ends == sorted(ends)
    assert len(ends) == 4
