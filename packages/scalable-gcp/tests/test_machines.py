from __future__ import annotations

import pytest

from scalable.providers.cloud.gcp.machines import read_machine_type


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
        ("e2-micro", None),
        ("a2-highgpu-1g", None),
        ("n2-standard-4x", None),
    ],
)
def test_vcpus(name: str, vcpus: int | None) -> None:
    assert read_machine_type(name).vcpus == vcpus


@pytest.mark.parametrize(
    ("name", "memory"), [("custom-4-8192", 8 * 2**30), ("n2-standard-4", None)]
)
def test_memory(name: str, memory: int | None) -> None:
    assert read_machine_type(name).memory == memory


@pytest.mark.parametrize(
    ("name", "has_gpu"),
    [
        ("a2-highgpu-1g", True),
        ("a3-ultragpu-8g", True),
        ("a4x-highgpu-4g", True),
        ("g2-standard-4", True),
        ("n1-standard-4", False),
        ("c4a-standard-4", False),
    ],
)
def test_gpus(name: str, has_gpu: bool) -> None:
    assert read_machine_type(name).has_gpu is has_gpu
