"""How warm does it get? FaIR over four emission scenarios and many climates.

It names no infrastructure: the manifest specifies where the tasks run and on what kind of worker.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from chart import fan_chart
from ensemble import (
    BASELINE,
    END_OF_CENTURY,
    SCENARIOS,
    Projection,
    draw_climates,
    project,
    simulate,
)
from scalable.session import ScalableSession

# One member takes about 0.05 s; a task of ten takes far longer than scheduling it.
MEMBERS_PER_TASK = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Run the ensemble, print the table, write the chart."""
    options = _parse(argv)
    climates = draw_climates(options.samples, options.seed)
    batches = np.array_split(climates, math.ceil(len(climates) / MEMBERS_PER_TASK))

    with ScalableSession.from_yaml() as client:
        reduced = {}
        for order, scenario in enumerate(SCENARIOS):
            runs = client.map(
                simulate,
                [scenario] * len(batches),
                batches,
                task="simulate",
                # One scenario after the other, so that each is reduced while the next one runs.
                priority=-order,
            )
            reduced[scenario] = client.submit(project, runs, task="project")
        drawn = client.submit(fan_chart, reduced, task="draw")

        print(f"{len(climates)} members in each of {len(reduced)} scenarios", flush=True)
        projections = {}
        for scenario, future in reduced.items():
            projections[scenario] = future.result()
            print(f"{scenario} finished", flush=True)
        options.out.write_bytes(drawn.result())

    print(f"\n{table(projections)}\n")
    print(f"chart: {options.out.resolve()}")


def table(projections: Mapping[str, Projection]) -> str:
    """Return the warming at the end of the century as a table, one line for each scenario.

    Parameters
    ----------
    projections : mapping of str to Projection
        One for each scenario, keyed by its name.
    """
    lines = [
        f"Warming of {_span(END_OF_CENTURY)} above {_span(BASELINE)}",
        "",
        "scenario  members  median  5–95 %",
    ]
    for scenario, projection in projections.items():
        low, _, median, _, high = projection.end_of_century
        lines.append(
            f"{scenario:8}  {projection.members:7}  {median:4.2f} K  {low:4.2f}–{high:4.2f} K"
        )
    return "\n".join(lines)


def _span(period: tuple[int, int]) -> str:
    first, last = period
    return f"{first}–{last}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Warming in four emission scenarios.")
    parser.add_argument(
        "--samples", type=int, default=100, metavar="N", help="climates in each scenario (100)"
    )
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="seed of the draw (42)")
    parser.add_argument(
        "--out", type=Path, default=Path("warming.png"), metavar="PNG", help="chart (warming.png)"
    )
    options = parser.parse_args(argv)
    if options.samples < 1:
        parser.error(f"--samples must be at least 1, not {options.samples}")
    if options.seed < 0:
        parser.error(f"--seed must not be negative, not {options.seed}")
    if options.out.is_dir():
        parser.error(f"--out: {options.out} is a directory; name a file")
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no directory {options.out.parent}; create it first")
    return options


if __name__ == "__main__":
    main()
