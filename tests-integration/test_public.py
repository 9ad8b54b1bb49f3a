"""What is public, by the rule of docs/reference/index.md, is documented there, and the other way round."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))
REFERENCE = sorted(ROOT.glob("docs/reference/*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)\n((?:   :.*\n)*)", re.MULTILINE)
ANNOTATED = re.compile(r"^```\{annotated-types\} ([\w.]+)$", re.MULTILINE)
ROLE = re.compile(r"\{py:(\w+)\}`~?(scalable[\w.]*)`")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Use(NamedTuple):
    """A name that `where` takes from a module; without a name, the module itself."""

    where: str
    module: str
    name: str


def _module_of(source: Path) -> str:
    parts = source.with_suffix("").parts
    parts = parts[parts.index("src") + 1 :]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


DISTRIBUTIONS = {_module_of(source): source.relative_to(ROOT).parts[1] for source in SOURCES}
"""The distribution of each module."""


def _imports(where: str, tree: ast.AST) -> Iterator[Use]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in found:
            if f"{module}.{name}" in DISTRIBUTIONS:
                yield Use(where, f"{module}.{name}", "")
            elif module in DISTRIBUTIONS:
                yield Use(where, module, name)


def _uses() -> Iterator[Use]:
    """Yield what distributions take from each other, and what examples and pages take from any."""
    for source in SOURCES:
        where = str(source.relative_to(ROOT))
        for use in _imports(where, ast.parse(source.read_text(encoding="utf-8"))):
            if DISTRIBUTIONS[use.module] != DISTRIBUTIONS[_module_of(source)]:
                yield use
    for source in sorted(ROOT.glob("examples/**/*.py")):
        where = str(source.relative_to(ROOT))
        yield from _imports(where, ast.parse(source.read_text(encoding="utf-8")))
    for pattern in ("*.md", "docs/**/*.md", "packages/*/README.md", "examples/*/README.md"):
        for page in sorted(ROOT.glob(pattern)):
            where = str(page.relative_to(ROOT))
            text = page.read_text(encoding="utf-8")
            for block in PYTHON.findall(text):
                yield from _imports(where, ast.parse(block))
            for kind, path in ROLE.findall(text):
                module, _, name = path.rpartition(".")
                yield Use(where, path, "") if kind == "mod" else Use(where, module, name)


def _exported(module: str) -> list[str]:
    return list(getattr(import_module(module), "__all__", ()))


def _is_annotated(module: str, name: str) -> bool:
    """Return whether this is an annotated type, which has a directive of its own."""
    return "Annotated[" in repr(getattr(import_module(module), name))[:200]


def _has_docstring(module: str, name: str) -> bool:
    """Return whether autodoc would show this name: it leaves out what has no docstring."""
    value: Any = getattr(import_module(module), name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return bool(value.__doc__)
    body = ast.parse(inspect.getsource(import_module(module))).body
    return any(
        isinstance(following, ast.Expr)
        and isinstance(statement, ast.Assign | ast.AnnAssign)
        and name in {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        for statement, following in itertools.pairwise(body)
    )


def _documented() -> tuple[set[str], set[tuple[str, str]]]:
    """Return the documented modules, and the documented names with the module that each is documented in."""
    modules: set[str] = set()
    names: set[tuple[str, str]] = set()
    for page in REFERENCE:
        text = page.read_text(encoding="utf-8")
        for module in ANNOTATED.findall(text):
            names |= {(module, name) for name in _exported(module) if _is_annotated(module, name)}
        for kind, path, options in DIRECTIVE.findall(text):
            if kind == "module":
                modules.add(path)
                if ":no-members:" not in options:
                    # What a module imports only when it is asked for is not in its dir(), where autodoc looks.
                    present = {*dir(import_module(path))}
                    names |= {
                        (path, name)
                        for name in _exported(path)
                        if name in present
                        and not _is_annotated(path, name)
                        and _has_docstring(path, name)
                    }
            else:
                module, _, name = path.rpartition(".")
                names.add((module, name))
    return modules, names


USES = sorted(set(_uses()))
MODULES, NAMES = _documented()


def test_what_is_imported_from_another_distribution_is_public() -> None:
    assert USES
    hidden = [use for use in USES if use.module not in MODULES]
    assert hidden == []
    private = [use for use in USES if use.name and use.name not in _exported(use.module)]
    assert private == []


def test_the_module_of_every_provider_is_public() -> None:
    providers = {entry.module for entry in entry_points(group="scalable.providers")}
    assert {module for module in providers if module in DISTRIBUTIONS} <= MODULES


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_name_of_a_public_module_is_documented(module: str) -> None:
    documented = {id(getattr(import_module(home), name)) for home, name in NAMES}
    missing = [
        name
        for name in _exported(module)
        if (module, name) not in NAMES
        and id(getattr(import_module(module), name)) not in documented
    ]
    assert missing == []


def test_every_documented_name_is_exported() -> None:
    assert [(home, name) for home, name in sorted(NAMES) if name not in _exported(home)] == []
