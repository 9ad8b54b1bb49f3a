import importlib.util
import json
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from scalable.modules.archive import list_importable
from scalable.modules.users import (
    find_loaded,
    find_preferred,
    installed_into,
    is_own,
    own_directories,
)

SITE = sysconfig.get_path("purelib")
STDLIB = sysconfig.get_path("stdlib")


def module(name: str, file: Path | str | None = None, path: list[str] | None = None) -> ModuleType:
    made = ModuleType(name)
    if file is not None:
        made.__file__ = str(file)
    if path is not None:
        made.__path__ = path
    return made


def write(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_installed_packages_and_python_itself_are_not_the_users(tmp_path: Path) -> None:
    assert is_own(str(tmp_path))
    for place in (
        SITE,
        STDLIB,
        f"{SITE}/numpy",
        f"{STDLIB}/json",
        sysconfig.get_path("scripts"),
        "/usr/lib/python3/dist-packages",
        str(tmp_path / "venv/lib/python3.12/site-packages/numpy"),
    ):
        assert not is_own(place), place


def test_a_directory_that_only_begins_like_that_of_python_is_the_users() -> None:
    assert is_own(f"{STDLIB}-mine")


def test_a_link_to_an_installed_package_is_not_the_users(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(SITE)
    assert not is_own(str(tmp_path / "link"))


def test_the_users_directories_are_those_of_the_path_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "src"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    entries = [
        "",
        STDLIB,
        str(tmp_path / "src"),
        SITE,
        str(tmp_path / "none"),
        str(tmp_path / "here"),
    ]
    assert own_directories(entries) == [tmp_path / "here", tmp_path / "src"]


def test_loaded_modules_are_those_of_the_users_files(tmp_path: Path) -> None:
    write(tmp_path / "tests/test_a.py", tmp_path / "pkg/__init__.py", tmp_path / "pkg/part.py")
    write(tmp_path / "scalable/mine.py", tmp_path / "script.py", tmp_path / "compiled.so")
    modules = {
        "tests.test_a": module(
            "tests.test_a", tmp_path / "tests/test_a.py"
        ),  # --import-mode=importlib
        "tests": module("tests"),
        "pkg": module("pkg", tmp_path / "pkg/__init__.py"),
        "pkg.part": module("pkg.part", tmp_path / "pkg/part.py"),
        "json": json,
        "gone": module("gone", tmp_path / "gone.py"),
        "compiled": module("compiled", tmp_path / "compiled.so"),
        "scalable.mine": module("scalable.mine", tmp_path / "scalable/mine.py"),
        "__main__": module("__main__", tmp_path / "script.py"),
        "not-a-name": module("not-a-name", tmp_path / "script.py"),
        "nothing": None,
    }
    found = {each.name: str(each.member) for each in find_loaded(modules, modules)}
    assert found == {
        "tests.test_a": "tests/test_a.py",
        "pkg": "pkg/__init__.py",
        "pkg.part": "pkg/part.py",
    }


def test_a_name_is_preferred_unless_it_means_something_else_here(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    names = ["helpers", "queue", "pytest", "yaml", "tests", "acme"]
    modules = {
        "yaml": module("yaml", mine / "yaml.py"),  # what this process has imported
        "tests": module("tests"),  # as pytest makes it
        "acme": module("acme", path=[f"{SITE}/acme", str(mine / "acme")]),
    }
    write(tmp_path / "site-packages/acme/__init__.py", tmp_path / "site-packages/tests/__init__.py")
    path = [str(mine), str(tmp_path / "site-packages"), SITE]
    assert find_preferred(names, modules, path) == {"helpers", "yaml", "tests"}
    assert importlib.util.find_spec("queue") is not None
    assert "queue" in sys.stdlib_module_names


def install(directory: Path, *files: str) -> None:
    """Leave files and their record, as ``pip install --target`` does."""
    write(*(directory / file for file in files))
    information = directory / "climate_tools-1.0.dist-info"
    write(information / "METADATA")
    rows = [*files, "climate_tools-1.0.dist-info/METADATA", "../../bin/climate-tools"]
    (information / "RECORD").write_text("".join(f"{row},sha256=abc,12\n" for row in rows))


def test_what_is_installed_beside_the_users_modules_is_not_sent(tmp_path: Path) -> None:
    install(tmp_path, "climate/__init__.py", "climate/grid.py", "_native.cpython-313.so", "six.py")
    write(tmp_path / "model.py", tmp_path / "own" / "__init__.py")
    assert installed_into(str(tmp_path)) == {"climate", "_native", "six"}
    modules = {
        name: module(name, tmp_path / file)
        for name, file in {
            "climate": "climate/__init__.py",
            "climate.grid": "climate/grid.py",
            "six": "six.py",
            "model": "model.py",
            "own": "own/__init__.py",
        }.items()
    }
    assert {each.name for each in find_loaded(modules, modules)} == {"model", "own"}
    assert [str(name) for name, _ in list_importable(tmp_path)] == ["model.py", "own/__init__.py"]
