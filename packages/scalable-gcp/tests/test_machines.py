from __future__ import annotations

import pytest

from scalable.providers.cloud.gcp.machines import MACHINES, cheapest_machine, machine_named


@pytest.mark.parametrize(
    ("name", "vcpus"),
    [
        ("e2-standard-2", 2),
        ("n1-highmem-96", 96),
        ("c3-highcpu-176", 176),
        ("c3-standard-4-lssd", 4),
        ("x4-megamem-960-metal", 960),
        ("g2-standard-8", 8),
        ("custom-4-8192", 4),
        ("n2-custom-8-65536-ext", 8),
        ("a2-highgpu-1g", 12),
        ("e2-micro", 2),
        ("a3-highgpu-1g", None),
        ("n2-standard-4x", None),
    ],
)
def test_vcpus(name: str, vcpus: int | None) -> None:
    assert machine_named(name).vcpus == vcpus


@pytest.mark.parametrize(
    ("name", "memory"),
    [("custom-4-8192", 8 * 2**30), ("n2-standard-4", 16 * 2**30), ("c4-standard-4", None)],
)
def test_memory(name: str, memory: int | None) -> None:
    assert machine_named(name).memory == memory


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("a2-highgpu-4g", 4),
        ("g2-standard-24", 2),
        ("a3-ultragpu-8g", None),
        ("a4x-highgpu-4g", None),
        ("n1-standard-4", 0),
        ("c4a-standard-4", 0),
    ],
)
def test_gpus(name: str, gpus: int | None) -> None:
    assert machine_named(name).gpus == gpus


@pytest.mark.parametrize("machine", [each for each in MACHINES.values() if each.series == "n2"])
def test_the_choice_holds_what_a_component_requires(machine: object) -> None:
    vcpus, usable = getattr(machine, "vcpus"), getattr(machine, "usable")  # noqa: B009
    chosen = cheapest_machine(vcpus, usable)
    assert chosen is not None
    assert (chosen.vcpus or 0) >= vcpus
    assert (chosen.usable or 0) >= usable


def test_some_of_the_memory_is_left_to_the_system() -> None:
    chosen = cheapest_machine(4, 16 * 2**30)
    assert chosen is not None
    assert (chosen.memory or 0) > 16 * 2**30


def test_nothing_is_chosen_where_no_machine_is_large_enough() -> None:
    assert cheapest_machine(1000, 0) is None
    assert cheapest_machine(1, 0, 9) is None
    assert cheapest_machine(1, 0, 5, "nvidia-tesla-t4") is None


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("n2-standard-4", "n2"),
        ("e2-custom-4-8192", "e2"),
        ("custom-4-8192", "n1 custom"),
        ("n2-custom-4-8192", "n2 custom"),
        ("n2-custom-8-65536-ext", None),
    ],
)
def test_the_series_by_which_a_machine_is_paid_for(name: str, rates: str | None) -> None:
    assert machine_named(name).rates == rates
