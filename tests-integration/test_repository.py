"""Facts that are repeated in the repository agree."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement


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
    line = "python -m pip install --constraint constraints.txt nox uv && python -m nox"
    assert line in (root / ".ci/run").read_text(encoding="utf-8")
    assert f"\n{line}\n" in (root / "README.md").read_text(encoding="utf-8")


def requirements(root: Path, projects: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Everything that a session may install, distributions of ours aside."""
    for project in projects.values():
        yield from project["dependencies"]
        yield from itertools.chain(*project.get("optional-dependencies", {}).values())
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for group in tools["dependency-groups"].values():
        yield from (entry for entry in group if isinstance(entry, str))
    for path in root.glob("examples/*/requirements.txt"):
        yield from (line for line in path.read_text(encoding="utf-8").splitlines() if line)


def test_the_constraints_name_a_version_of_all_that_sessions_install(
    root: Path, projects: dict[str, dict[str, Any]]
) -> None:
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    versions: dict[str, list[str]] = {}
    for pin in pins:
        assert re.fullmatch(r"==[^=,]+", str(pin.specifier)), pin
        versions.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
    asked = [Requirement(line) for line in requirements(root, projects) if not line.startswith("#")]
    for requirement in asked:
        if requirement.name not in {"scalable", *projects}:
            found = versions.get(requirement.name.lower(), [])
            assert found, f"{requirement} has no version: run nox -s constraints"
            assert all(map(requirement.specifier.contains, found)), requirement
    assert "://" not in text


def test_the_workflows_install_what_is_known_to_work(root: Path) -> None:
    for path in (root / ".github/workflows").glob("*.yml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "pip install" in line and path.name != "upstream.yml":
                assert "--constraint constraints.txt" in line, (path.name, line)


def packages_with_a_table(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the directory of each package of several modules, and the docstring that lists these."""
    sources = root.glob("packages/*/src/scalable/**/__init__.py")
    # A namespace has no module of its own.
    namespace = root / "packages/scalable-core/src/scalable/providers/base.py"
    for path in (*sources, namespace):
        if len([*path.parent.glob("*.py")]) > 2:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield path.parent, ast.get_docstring(tree) or ""


def test_each_package_lists_its_modules(root: Path) -> None:
    wrong = {}
    for directory, docstring in packages_with_a_table(root):
        modules = {path.stem for path in directory.glob("*.py") if path.stem[0] != "_"}
        packages = {path.parent.name for path in directory.glob("*/__init__.py")}
        listed = set(re.findall(r"^`(\w+)`  ", docstring, re.MULTILINE))
        missing = {name for name in modules if f"`{name}`" not in docstring}
        if missing or listed - modules - packages:
            wrong[directory.relative_to(root)] = missing, listed - modules - packages
    assert wrong == {}
