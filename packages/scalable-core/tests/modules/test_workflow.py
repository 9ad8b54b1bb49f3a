import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from scalable.modules.workflow import find_workflow_directory


def main_module(file: Path | None = None, *, spec: str | None = None) -> ModuleType:
    module = ModuleType("__main__")
    if file is not None:
        module.__file__ = str(file)
    module.__spec__ = ModuleSpec(spec, None) if spec else None
    return module


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "cwd").mkdir()
    return tmp_path / "cwd"


def test_a_script_lives_in_its_own_directory(tmp_path: Path, cwd: Path) -> None:
    main = main_module(tmp_path / "project" / "workflow.py")

    assert find_workflow_directory(main, [], sys.prefix, cwd) == tmp_path / "project"


def test_a_linked_script_lives_where_python_looks_for_its_modules(
    tmp_path: Path, cwd: Path
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "workflow.py").touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "project" / "workflow.py")

    directory = find_workflow_directory(main_module(tmp_path / "link.py"), [], sys.prefix, cwd)

    assert directory == tmp_path / "project"


def test_a_notebook_or_an_interpreter_imports_from_the_current_directory(cwd: Path) -> None:
    assert find_workflow_directory(main_module(), [str(cwd)], sys.prefix, cwd) == cwd


def test_python_m_imports_from_the_current_directory(tmp_path: Path, cwd: Path) -> None:
    main = main_module(tmp_path / "project" / "workflow.py", spec="project.workflow")

    assert find_workflow_directory(main, [str(cwd)], sys.prefix, cwd) == cwd


def test_a_tool_of_the_environment_is_not_a_workflow(tmp_path: Path, cwd: Path) -> None:
    main = main_module(tmp_path / "env" / "bin" / "pytest")

    assert find_workflow_directory(main, [str(cwd)], str(tmp_path / "env"), cwd) == cwd
    assert find_workflow_directory(main, [], str(tmp_path / "env"), cwd) is None


def test_an_empty_entry_of_the_path_means_the_current_directory(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cwd)

    assert find_workflow_directory(main_module(), [""], sys.prefix, cwd) == cwd
