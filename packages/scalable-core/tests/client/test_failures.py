"""Tasks that failed, beside the results of those that did not."""

from __future__ import annotations

import traceback
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from scalable.client import ScalableClient, TaskFailure


def half(member: int) -> float:
    if member == 3:
        raise ValueError("no data\nfor 3")
    return member / 2


def half_later(member: int, allowed: str) -> float:
    if not Path(allowed).exists():
        raise ValueError("not yet")
    return member / 2


def test_failures_are_beside_results(client: ScalableClient) -> None:
    futures = client.map(half, range(5), tag="stitches")
    values = client.gather(futures, errors="collect")
    failure = values.pop(3)
    assert values == [0, 0.5, 1, 2]
    assert failure.key == futures[3].key
    assert failure.reason == "ValueError: no data for 3"
    assert "member == 3" in "".join(traceback.format_exception(failure.error)) or (
        failure.error.__traceback__ is not None
    )
    assert client.failures == {futures[3].key: failure}
    with pytest.raises(ValueError, match="no data"):
        raise failure.error


def test_they_are_nested_as_the_futures_are(client: ScalableClient) -> None:
    good, bad = client.map(half, [2, 3], tag="stitches")
    nested = client.gather({"a": good, "b": [bad, (good, {good})], "c": 7}, errors="collect")
    assert nested["b"].pop(0).key == bad.key
    assert nested == {"a": 1, "b": [(1, {1})], "c": 7}
    assert isinstance(client.gather(bad, errors="collect"), TaskFailure)
    assert [*client.gather(iter([good]), errors="collect")] == [1]


def test_what_depends_on_a_failure_has_its_reason(client: ScalableClient) -> None:
    bad = client.submit(half, 3, tag="stitches")
    total = client.submit(sum, [bad], tag="stitches")
    failure = client.gather(total, errors="collect")
    assert failure.reason == "ValueError: no data for 3"
    cancelled = client.submit(half, 4, tag="stitches")
    cancelled.cancel()
    assert isinstance(client.gather(cancelled, errors="collect").error, CancelledError)


def test_a_task_that_succeeds_when_tried_again_has_not_failed(
    client: ScalableClient, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    future = client.submit(half_later, 4, str(allowed), tag="stitches")
    assert client.gather(future, errors="collect").reason == "ValueError: not yet"
    allowed.touch()
    future.retry()
    assert client.gather(future, errors="collect") == 2
    assert client.failures == {}


def test_the_other_words_are_those_of_dask(client: ScalableClient) -> None:
    futures = client.map(half, range(5), tag="stitches")
    assert client.gather(futures, errors="skip") == [0, 0.5, 1, 2]
    with pytest.raises(ValueError, match="no data"):
        client.gather(futures)
    with pytest.raises(ValueError, match="errors='ignore' is none of 'raise', 'skip', 'collect'"):
        client.gather(futures, errors="ignore")
