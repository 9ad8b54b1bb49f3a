"""What a manifest says of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalable.errors import ResultStoreError
from scalable.manifest.parser import parse_manifest
from scalable.manifest.storage import results_url
from scalable.manifest.validate import validate_manifest
from scalable.results.comparing import compare
from scalable.results.naming import TaskRule
from scalable.results.reuse import open_results
from scalable.results.settings import store_options, task_rules


def manifest(project: dict[str, Any], **task: Any) -> Any:
    return parse_manifest(
        {
            "version": 1,
            "project": {"name": "x", **project},
            "targets": {"t": {"provider": "local"}},
            "components": {"gcam": {"image": "gcam:8"}},
            "tasks": {"simulate": {"component": "gcam", **task}},
        }
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kept", "/project/kept"),
        ("/scratch/kept", "/scratch/kept"),
        ("~/kept", "/home/me/kept"),
        ("s3://bucket/kept", "s3://bucket/kept"),
        ("simplecache::s3://bucket", "simplecache::s3://bucket"),
    ],
)
@pytest.mark.parametrize("key", ["results", "default_storage"])
def test_where_results_are_kept(
    key: str, url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert results_url(manifest({key: url}), Path("/project")) == expected


def test_which_tasks_are_kept() -> None:
    assert task_rules(manifest({})) == {}
    assert results_url(manifest({}), Path("/project")) is None
    made = manifest({"results": "a", "trust_results": True}, cache=True, version=2, ignore=["v"])
    assert task_rules(made) == {"simulate": TaskRule("gcam:8", "2", ("v",))}
    assert store_options(made) == {
        "redact": made.redact,
        "trusted": True,
        "on_store_error": "continue",
        "copies": None,
        "images": {"gcam": "gcam:8"},
    }


@pytest.mark.parametrize(
    ("project", "task", "codes"),
    [
        ({}, {"cache": True}, ["E_NO_RESULTS"]),
        ({"results": "a"}, {"cache": True}, []),
        ({"default_storage": "a"}, {"cache": True}, []),
        ({"results": "a", "default_storage": "b"}, {}, ["E_BAD_VALUE"]),
        ({"results": "a"}, {"ignore": ["v"]}, ["E_NO_CACHE"]),
        ({"results": "a"}, {"version": 1}, ["E_NO_CACHE"]),
        ({"results": "a", "local_cache": "/tmp/copies"}, {"cache": True}, []),
        ({"local_cache": "~/copies"}, {}, ["E_NO_RESULTS"]),
        ({}, {"outputs": {"table": "csv"}}, ["W_OUTPUT_KIND"]),
        ({}, {"outputs": {"table": "./csv", "other": "out/{x}.csv"}}, []),
    ],
)
def test_what_does_not_fit_together(
    project: dict[str, Any], task: dict[str, Any], codes: list[str]
) -> None:
    report = validate_manifest(manifest(project, **task), known_providers={"local"})
    assert [issue.code for issue in report.issues] == codes


def test_values_of_the_environment_are_not_shown(tmp_path: Path) -> None:
    text = """
version: 1
project: {name: x, results: "${KEPT_STORE}"}
targets: {t: {provider: local}}
components: {gcam: {image: "gcam:${KEPT_TAG}"}}
tasks: {simulate: {component: gcam, cache: true}}
"""
    env = {"KEPT_STORE": str(tmp_path / "hidden-place"), "KEPT_TAG": "hidden-tag"}
    made = parse_manifest(text, env=env)
    told: list[str] = []
    url = results_url(made, tmp_path)
    assert url == str(tmp_path / "hidden-place")
    results = open_results(
        url, task_rules(made), report=lambda text, _: told.append(text), **store_options(made)
    )
    rule = results.rule(len, "simulate", "gcam")
    assert rule is not None
    assert rule.image == "gcam:hidden-tag"
    (named,) = results.name(rule, len, [([1],)], {}, lambda _: None)
    (code,) = tmp_path.rglob("code.json")
    assert "hidden" not in code.read_text()
    assert named.name is not None
    assert "hidden" not in named.name
    assert results.settings(rule)["shown"] == "${KEPT_STORE}"
    (tmp_path / "hidden-place").rename(tmp_path / "moved")
    (tmp_path / "hidden-place").write_text("")
    assert results.find([f"simulate/0/{number}" for number in range(20)]) == {}
    assert told == [
        "cannot list results at ${KEPT_STORE}: Not a directory; tasks are computed, and the run goes on"
    ]
    with pytest.raises(ResultStoreError, match=r"at \$\{KEPT_STORE\}: Not a directory"):
        open_results(url, **store_options(made))


def test_everything_that_differs_is_named() -> None:
    before = {
        "code": {"f": "1", "gone": "2"},
        "sources": {"f": "def f(): return 1"},
        "image": None,
        "versions": ["1"],
        "ignored": [],
        "arguments": {"x": "a", "y": "b"},
    }
    after = {
        "code": {"f": "3"},
        "sources": {"f": "def f(): return 2"},
        "image": "gcam:8",
        "versions": ["2"],
        "ignored": ["v"],
        "arguments": {"x": "c", "y": "b"},
    }
    found = compare(before, after)
    assert [str(each) for each in found] == [
        "code f has changed",
        "code gone is gone",
        "image is new",
        "version was 1 and is 2",
        "ignore is new",
        "argument x has changed",
    ]
    assert "-def f(): return 1\n+def f(): return 2\n" in found[0].diff
    assert compare(after, after) == []
