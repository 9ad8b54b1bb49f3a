"""The fan chart: one panel for each scenario, all on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ensemble import BASELINE, END_OF_CENTURY, YEARS, Projection

__all__ = ["fan_chart"]

# IPCC Visual Style Guide for Authors (WGI Technical Support Unit, 2018): line colours of the RCPs.
_COLOURS = {
    "RCP2.6": "#003466",
    "RCP4.5": "#70A0CD",
    "RCP6.0": "#C47900",
    "RCP8.5": "#990002",
}
_PAST_COLOUR = "#404040"
_OTHERS_COLOUR = "#B8B8B8"
_GRID_COLOUR = "#DDDDDD"

_OUTER, _INNER = 0.22, 0.45  # opacity of the bands
_LINE_WIDTH, _OTHERS_WIDTH = 1.9, 0.9

_FIRST_YEAR = 1950
# The RCPs share one history up to 2005: Meinshausen et al. (2011), doi:10.1007/s10584-011-0156-z.
_LAST_COMMON_YEAR = 2005

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "grid.color": _GRID_COLOUR,
    "legend.frameon": False,
    "ytick.major.size": 0,
}


def fan_chart(projections: Mapping[str, Projection]) -> bytes:
    """Draw median, 17–83 % and 5–95 % bands of the warming in every scenario.

    Parameters
    ----------
    projections : mapping of str to Projection
        One for each scenario, keyed by its name.

    Returns
    -------
    bytes
        A PNG file.
    """
    with rc_context(_STYLE):
        # A figure of its own instead of pyplot's current one: it needs no display.
        figure = Figure(
            figsize=(10, 5.2), dpi=200, layout=ConstrainedLayoutEngine(wspace=0.04, h_pad=0.1)
        )
        panels = figure.subplots(1, len(projections), sharey=True, squeeze=False)[0]
        for panel, scenario in zip(panels, projections, strict=True):
            _draw_panel(panel, scenario, projections)
        panels[0].set_ylabel(f"Global warming above {BASELINE[0]}–{BASELINE[1]} (K)")
        figure.legend(handles=_legend_handles(), loc="outside lower center", ncols=4)
        figure.suptitle(
            "Warming to 2100 in the climate model FaIR", x=0.01, ha="left", weight="bold"
        )
        png = BytesIO()
        figure.savefig(png, format="png")
    return png.getvalue()


def _draw_panel(axes: Axes, scenario: str, projections: Mapping[str, Projection]) -> None:
    past = (YEARS >= _FIRST_YEAR) & (YEARS <= _LAST_COMMON_YEAR)
    future = YEARS >= _LAST_COMMON_YEAR
    for other, projection in projections.items():
        if other != scenario:
            _, _, median, _, _ = projection.annual[:, future]
            axes.plot(YEARS[future], median, color=_OTHERS_COLOUR, linewidth=_OTHERS_WIDTH)
    _draw_fan(axes, projections[scenario], past, _PAST_COLOUR)
    _draw_fan(axes, projections[scenario], future, _COLOURS[scenario])

    low, _, median, _, high = projections[scenario].end_of_century
    first, last = END_OF_CENTURY
    axes.set_title(scenario, color=_COLOURS[scenario], fontsize=13, fontweight="bold", pad=40)
    axes.annotate(
        f"{median:.2f} K ({low:.2f}–{high:.2f})\n"
        f"in {first}–{last}, n = {projections[scenario].members}",
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 10),
        textcoords="offset points",
    )
    axes.set(xlim=(_FIRST_YEAR, YEARS[-1]), xticks=(1950, 2000, 2050, 2100), xlabel="Year")


def _draw_fan(axes: Axes, projection: Projection, years: NDArray[np.bool_], colour: str) -> None:
    p05, p17, median, p83, p95 = projection.annual[:, years]
    for low, high, opacity in ((p05, p17, _OUTER), (p17, p83, _INNER), (p83, p95, _OUTER)):
        axes.fill_between(YEARS[years], low, high, color=colour, alpha=opacity, linewidth=0)
    axes.plot(YEARS[years], median, color=colour, linewidth=_LINE_WIDTH)


def _legend_handles() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=_PAST_COLOUR, linewidth=_LINE_WIDTH, label="median"),
        Patch(color=_PAST_COLOUR, alpha=_INNER, linewidth=0, label="17–83 %"),
        Patch(color=_PAST_COLOUR, alpha=_OUTER, linewidth=0, label="5–95 %"),
        Line2D(
            [],
            [],
            color=_OTHERS_COLOUR,
            linewidth=_OTHERS_WIDTH,
            label="medians of the other scenarios",
        ),
    ]
