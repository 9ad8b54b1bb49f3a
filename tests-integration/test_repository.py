"""Facts that are repeated in the repository agree."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def projects(root: Path) -> dict[str, dict[str, Any]]:
    """The ``[project]`` table of each distribution."""
    tables = (
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for path in root.glob("packages/*/pyproject.toml")
    )
    return {table["name"]: table for table in tables}


@pytest.fixture(scope="module")
def jobs(root: Path) -> dict[str, Any]:
    """The jobs of the test workflow."""
    text = (root / ".github/workflows/test.yml").read_text(encoding="utf-8")
    parsed: dict[str, Any] = yaml.safe_load(text)["jobs"]
    return parsed


def test_distributions_are_released_in_lock_step(projects: dict[str, dict[str, Any]]) -> None:
    (version,) = {project["version"] for project in projects.values()}
    ours = [
        requirement
        for project in projects.values()
        for requirement in itertools.chain(
            project["dependencies"], *project.get("optional-dependencies", {}).values()
        )
        if requirement.startswith("scalable-")
    ]
    assert ours
    assert [requirement for requirement in ours if not requirement.endswith(f"=={version}")] == []


def test_the_meta_package_offers_every_provider(projects: dict[str, dict[str, Any]]) -> None:
    providers = {
        name: distribution
        for distribution, project in projects.items()
        for name in project.get("entry-points", {}).get("scalable.providers", {})
    }
    extras = projects["scalable"]["optional-dependencies"]
    version = projects["scalable"]["version"]
    assert {name: extras[name] for name in providers} == {
        name: [f"{distribution}=={version}"] for name, distribution in providers.items()
    }
    (everything,) = extras["all"]
    assert {*everything.removeprefix("scalable[").removesuffix("]").split(",")} == {*providers}


def test_there_is_a_job_for_each_distribution_and_python(
    projects: dict[str, dict[str, Any]], jobs: dict[str, Any]
) -> None:
    prefix = "Programming Language :: Python :: "
    pythons = {
        python
        for project in projects.values()
        for classifier in project.get("classifiers", [])
        if (python := classifier.removeprefix(prefix)) != classifier
    }
    matrix = jobs["package"]["strategy"]["matrix"]
    assert {*matrix["package"]} == {*projects} - {"scalable"}
    assert {*matrix["python"]} == {*jobs["integration"]["strategy"]["matrix"]["python"]} == pythons


def test_the_readme_and_ci_run_the_same_command(root: Path) -> None:
    line = "python -m pip install nox && python -m nox"
    assert line in (root / ".ci/run").read_text(encoding="utf-8")
    assert f"\n{line}\n" in (root / "README.md").read_text(encoding="utf-8")
