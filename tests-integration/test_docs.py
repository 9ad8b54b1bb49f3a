"""The documentation agrees with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scalable.manifest import parse_manifest, validate_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.registry import get_provider

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "packages/*/README.md", "examples/*/README.md")
    for page in ROOT.glob(pattern)
    if "_build" not in page.parts
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"[EW]_[A-Z]+(_[A-Z]+)*")


class Block(NamedTuple):
    """A block of code in a page."""

    where: str
    language: str
    text: str


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(content):
            line = content[: match.start()].count("\n") + 1
            yield Block(f"{page.relative_to(ROOT)}:{line}", match[1], match[2])


BLOCKS = list(_blocks())
MANIFESTS = [block for block in BLOCKS if block.language == "yaml" and "version: 1" in block.text]
SCRIPTS = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", MANIFESTS, ids=[block.where for block in MANIFESTS])
def test_manifests_are_valid_for_each_of_their_targets(block: Block) -> None:
    for name in parse_manifest(block.text, env={}).targets:
        manifest = parse_manifest(block.text, env={}, target_name=name, source=block.where)
        spec = DeploymentSpec.from_manifest(manifest, target_name=name)
        report = validate_manifest(manifest) + get_provider(spec.provider_name).validate(spec)
        assert [str(issue) for issue in report.errors] == []


@pytest.mark.parametrize("block", SCRIPTS, ids=[block.where for block in SCRIPTS])
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, block.where)


def test_every_issue_code_is_documented() -> None:
    used = {
        node.value
        for source in ROOT.glob("packages/*/src/**/*.py")
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CODE.fullmatch(node.value)
    }
    page = (ROOT / "docs/manifest.md").read_text(encoding="utf-8")
    documented = {match[1] for match in re.finditer(r"^\| `(\w+)` \|", page, re.MULTILINE)}
    assert used
    assert {code for code in documented if CODE.fullmatch(code)} == used


def test_each_promise_of_dask_that_is_documented_is_tested() -> None:
    """A test's name is the sentence of the page."""
    tested = {
        node.name.removeprefix("test_").replace("_", " ")
        for source in ROOT.glob("packages/scalable-core/tests/client/promises/test_*.py")
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    page = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    documented = [match[1].lower() for match in re.finditer(r"^\* (.*)\.$", page, re.MULTILINE)]
    assert sorted(documented) == sorted(tested)


def test_links_between_pages_exist() -> None:
    # Sphinx checks only the links in docs/.
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        if "docs" not in page.relative_to(ROOT).parts
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []
