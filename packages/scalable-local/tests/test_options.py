from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from scalable.providers.local import LocalOptions


def test_defaults() -> None:
    options = LocalOptions()

    assert options.processes
    assert options.containers == "none"
    assert options.threads_per_worker is None
    assert options.dashboard_address == "127.0.0.1:0"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8787", ":8787", "localhost:0", "[::1]:65535", "my-host.example:1", None]
)
def test_addresses_of_a_dashboard(address: str | None) -> None:
    assert LocalOptions(dashboard_address=address).dashboard_address == address


@pytest.mark.parametrize(
    "address", ["8787", "127.0.0.1", "host:65536", "http://host:80", "a b:1", ""]
)
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(ValidationError, match="host:port"):
        LocalOptions(dashboard_address=address)


@pytest.mark.parametrize(
    "wrong",
    [{"threads_per_worker": 0}, {"containers": "chroot"}, {"max_workers": 0}, {"proceses": True}],
)
def test_invalid_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LocalOptions(**wrong)
