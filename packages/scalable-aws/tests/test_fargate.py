from __future__ import annotations

import pytest

from scalable.providers.cloud.aws.fargate import (
    LARGEST_TASK,
    MEMORY_BY_CPU,
    describe_memory,
    next_memory,
)


def test_there_are_as_many_sizes_as_amazon_lists() -> None:
    assert sum(map(len, MEMORY_BY_CPU.values())) == 77


@pytest.mark.parametrize(
    ("cpu", "least", "most"),
    [
        (256, 512, 2048),
        (512, 1024, 4096),
        (1024, 2048, 8192),
        (2048, 4096, 16384),
        (4096, 8192, 30720),
        (8192, 16384, 61440),
        (16384, 32768, 122880),
        (32768, 61440, 249856),
    ],
)
def test_ends_of_each_range(cpu: int, least: int, most: int) -> None:
    assert (MEMORY_BY_CPU[cpu][0], MEMORY_BY_CPU[cpu][-1]) == (least, most)


def test_the_largest_task() -> None:
    assert LARGEST_TASK == (32 * 1024, 244 * 1024)


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 512), (512, 512), (513, 1024), (30720, 30720), (30721, 32768)]
)
def test_memory_is_rounded_up(asked: int, given: int) -> None:
    assert next_memory(asked) == given


def test_descriptions_of_memory() -> None:
    assert describe_memory(32768) == "61440, 122880 or 249856"
    assert describe_memory(512) == "1024 to 4096 in steps of 1024"
