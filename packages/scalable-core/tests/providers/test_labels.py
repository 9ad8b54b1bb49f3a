"""Names of components as native systems accept them."""

from __future__ import annotations

import pytest

from scalable.providers.labels import dns_label


@pytest.mark.parametrize(
    ("component", "label"), [("gcam", "gcam"), ("GCAM_6", "gcam-6"), ("a_", "a"), ("a-_-", "a")]
)
def test_names_for_backends_that_take_dns_labels(component: str, label: str) -> None:
    assert dns_label(component) == label
