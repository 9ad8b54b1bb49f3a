"""The science of the ensemble: which climates to sample, their simulation with FaIR, and the warming.

Everything here is a pure function of its arguments and independent of where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist

import numpy as np
from fair.ancil import cmip6_solar, cmip6_volcanic, natural
from fair.forward import fair_scm
from fair.RCPs import rcp26, rcp45, rcp60, rcp85
from numpy.typing import NDArray

__all__ = [
    "BASELINE",
    "END_OF_CENTURY",
    "PERCENTILES",
    "SCENARIOS",
    "YEARS",
    "Projection",
    "draw_climates",
    "project",
    "simulate",
    "warming",
]

FloatArray = NDArray[np.float64]

_EMISSIONS = {
    "RCP2.6": rcp26.Emissions,
    "RCP4.5": rcp45.Emissions,
    "RCP6.0": rcp60.Emissions,
    "RCP8.5": rcp85.Emissions,
}

SCENARIOS = tuple(_EMISSIONS)
"""The Representative Concentration Pathways, from the least forcing to the most."""

YEARS = np.arange(1765, 2101)
"""The years of a simulation. The RCP files go on to 2500; a year depends only on those before it."""

BASELINE = (1861, 1880)
"""First and last year of the reference period, that of IPCC AR5 WGI figure SPM.10."""

END_OF_CENTURY = (2081, 2100)
"""First and last year of the period that is reported."""

PERCENTILES = (5, 17, 50, 83, 95)
"""The IPCC's very likely and likely ranges, and the median."""

# IPCC AR6 WGI section 7.5.5: very likely ranges, read as 5-95 %, in kelvin.
_TCR_RANGE = (1.2, 2.4)
_ECS_RANGE = (2.0, 5.0)
# Across the CMIP5 models of Forster et al. (2013), doi:10.1002/jgrd.50174, a table that FaIR ships.
_CORRELATION = 0.82

_Z95 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Projection:
    """Warming in one scenario, as `PERCENTILES` of its members.

    Attributes
    ----------
    members : int
        How many simulations the percentiles are of.
    annual : ndarray of shape (len(PERCENTILES), len(YEARS))
        Warming of each year above the mean of `BASELINE`, in kelvin.
    end_of_century : ndarray of shape (len(PERCENTILES),)
        Warming of the mean of `END_OF_CENTURY` above the mean of `BASELINE`, in kelvin.
    """

    members: int
    annual: FloatArray
    end_of_century: FloatArray


def draw_climates(count: int, seed: int) -> FloatArray:
    """Draw pairs of transient climate response (TCR) and equilibrium climate sensitivity (ECS).

    TCR is normal and ECS lognormal, because the assessed range of ECS is skewed; the two are joined
    by a Gaussian copula. Pairs in which the climate would warm more in transit than in equilibrium
    (TCR >= ECS) are drawn again. A larger `count` continues the same sequence.

    Parameters
    ----------
    count : int
        Number of pairs.
    seed : int
        Seed of the generator; the same seed gives the same pairs.

    Returns
    -------
    ndarray of shape (count, 2)
        TCR and ECS in kelvin.
    """
    rng = np.random.default_rng(seed)
    accepted = np.empty((0, 2))
    while len(accepted) < count:
        z_tcr, independent = rng.standard_normal((count, 2)).T
        z_ecs = _CORRELATION * z_tcr + sqrt(1 - _CORRELATION**2) * independent
        tcr = _normal(z_tcr, *_TCR_RANGE)
        ecs = np.exp(_normal(z_ecs, *map(log, _ECS_RANGE)))
        drawn = np.column_stack((tcr, ecs))
        accepted = np.concatenate((accepted, drawn[(tcr > 0) & (tcr < ecs)]))
    return accepted[:count]


def _normal(z: FloatArray, p05: float, p95: float) -> FloatArray:
    """Scale standard normal numbers to the normal distribution with these percentiles."""
    return (p05 + p95) / 2 + z * (p95 - p05) / (2 * _Z95)


def simulate(scenario: str, climates: FloatArray) -> FloatArray:
    """Run FaIR, driven by the emissions of a scenario, once for each climate.

    Parameters
    ----------
    scenario : str
        One of `SCENARIOS`.
    climates : ndarray of shape (n, 2)
        TCR and ECS in kelvin.

    Returns
    -------
    ndarray of shape (n, len(YEARS))
        Global mean surface temperature of each year above that of the model's start, in kelvin.
    """
    span = slice(len(YEARS))
    return np.stack(
        [
            fair_scm(
                emissions=_EMISSIONS[scenario].emissions[span],
                tcrecs=climate,
                # The defaults are as long as the RCP files and must be as long as the emissions.
                natural=natural.Emissions.emissions[span],
                F_solar=cmip6_solar.Forcing.solar[span],
                F_volcanic=cmip6_volcanic.Forcing.volcanic[span],
            )[2]
            for climate in climates
        ]
    )


def warming(temperatures: FloatArray) -> FloatArray:
    """Return each member's temperatures relative to its own mean over `BASELINE`."""
    return temperatures - _mean_over(BASELINE, temperatures)[:, np.newaxis]


def project(batches: Sequence[FloatArray]) -> Projection:
    """Reduce the simulations of one scenario to percentiles across its members.

    Parameters
    ----------
    batches : sequence of ndarray of shape (n, len(YEARS))
        Results of `simulate`.
    """
    members = warming(np.concatenate(batches))
    return Projection(
        members=len(members),
        annual=_percentiles(members),
        end_of_century=_percentiles(_mean_over(END_OF_CENTURY, members)),
    )


def _mean_over(period: tuple[int, int], series: FloatArray) -> FloatArray:
    first, last = period
    mean: FloatArray = series[:, (first <= YEARS) & (last >= YEARS)].mean(axis=1)
    return mean


def _percentiles(members: FloatArray) -> FloatArray:
    return np.asarray(np.percentile(members, PERCENTILES, axis=0))
