from __future__ import annotations

import pytest

from scalable.providers.kubernetes.quantities import parse_cpu


@pytest.mark.parametrize(
    ("text", "millicores"),
    [(1, 1000), (0.25, 250), ("2", 2000), ("0.001", 1), ("1.5", 1500), ("1m", 1), ("1500m", 1500)],
)
def test_amounts_of_cpu(text: str | float, millicores: int) -> None:
    assert parse_cpu(text) == millicores


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0m",
        0,
        "-1",
        -1,
        "1.0005",
        "1 m",
        "1M",
        "m",
        "1e3",
        True,
        None,
        float("inf"),
        "\u0661",
    ],
)
def test_invalid_amounts_of_cpu(text: str | float) -> None:
    with pytest.raises(ValueError, match="amount of CPU"):
        parse_cpu(text)
