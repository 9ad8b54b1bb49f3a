import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scalable.errors import ModulesError
from scalable.modules import UserModules, tracking


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path without the directories of this suite."""
    path: list[str] = []
    monkeypatch.setattr(sys, "path", path)
    return path


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules without those of this suite, and of the directories of its tests."""
    ours = ("/tests/", "/pytest-of-")
    kept = {
        name: each
        for name, each in sys.modules.items()
        if not any(part in str(each) for part in ours)
    }
    monkeypatch.setattr(sys, "modules", kept)


@pytest.fixture
def workflow(path: list[str], modules: None, tmp_path: Path) -> Path:
    directory = tmp_path / "workflow"
    directory.mkdir()
    (directory / "helpers.py").write_text("x = 1\n")
    path.append(str(directory))
    return directory


def test_what_is_not_changed_is_not_packed_again(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = UserModules(workflow)
    assert found.archive.names == ("helpers.py",)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(tracking, "build_archive", fail)
    assert found.changed() is None
    (workflow / "helpers.py").write_text("x = 22\n")
    with pytest.raises(AssertionError):
        found.changed()


def test_an_edited_file_is_packed_again_once(workflow: Path) -> None:
    found = UserModules(workflow)
    (workflow / "helpers.py").write_text("x = 22\n")
    changed = found.changed()
    assert changed is not None
    assert changed is found.archive
    assert found.changed() is None


def test_a_file_that_was_written_with_the_same_content_is_not_sent(workflow: Path) -> None:
    found = UserModules(workflow)
    (workflow / "helpers.py").write_text("x = 1\n")
    assert found.changed() is None


def test_a_deleted_file_is_a_change(workflow: Path) -> None:
    (workflow / "other.py").touch()
    found = UserModules(workflow)
    (workflow / "helpers.py").unlink()
    changed = found.changed()
    assert changed is not None
    assert changed.names == ("other.py",)


def test_the_version_is_that_of_the_edits(workflow: Path, path: list[str]) -> None:
    found = UserModules(workflow)
    assert not found.version
    (workflow / "new.py").write_text("y = 1\n")
    (workflow / "helpers.py").write_text("x = 22\n")
    assert found.changed()
    version = found.version
    assert version
    (workflow / "helpers.py").write_text("x = 1\n")
    assert found.changed()
    assert not found.version  # as at first; a module that is new changes none of the others
    (workflow / "new.py").write_text("y = 22\n")
    assert found.changed()
    assert found.version not in ("", version)


def test_modules_that_are_imported_later_are_added(
    workflow: Path, path: list[str], tmp_path: Path
) -> None:
    found = UserModules(workflow)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "scalable_test_later.py").touch()
    path.append(str(tmp_path / "later"))
    assert found.changed() is None
    __import__("scalable_test_later")
    changed = found.changed()
    assert changed is not None
    assert changed.names == ("helpers.py", "scalable_test_later.py")
    assert found.changed() is None


def test_packages_are_whole_and_keep_their_names(
    workflow: Path, path: list[str], tmp_path: Path
) -> None:
    package = tmp_path / "elsewhere" / "scalable_test_package"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "part" / "table.csv").touch()
    path.append(str(package.parent))
    __import__("scalable_test_package")
    path.remove(str(package.parent))  # an editable installation may have a finder of its own
    assert UserModules(workflow).archive.names == (
        "helpers.py",
        "scalable_test_package/__init__.py",
        "scalable_test_package/part/table.csv",
    )


def test_other_directories_of_the_path_come_after_the_workflows(
    workflow: Path, path: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("helpers", "model"):
        (source / f"{name}.py").write_text("from src")
    path.append(str(source))
    archive = UserModules(workflow).archive
    origins = {name: Path(origin.path).parent for name, origin in archive.origins.items()}
    assert origins == {"helpers.py": workflow, "model.py": source}
    assert [directory for directory, *_ in archive.directories] == [str(workflow), str(source)]


def test_listed_modules_take_the_place_of_directories(
    workflow: Path, path: list[str], tmp_path: Path
) -> None:
    (tmp_path / "listed.py").touch()
    assert UserModules(None, [tmp_path / "listed.py"]).archive.names == ("listed.py",)


@pytest.mark.parametrize("make", [lambda d: UserModules(d), lambda d: UserModules(None, [d])])
def test_a_workflow_that_is_too_large_is_refused(
    workflow: Path, make: Callable[[Path], UserModules], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "BOUNDS", (5, 10))
    with pytest.raises(ModulesError, match=r"project\.modules"):
        make(workflow)


def test_other_directories_that_are_too_large_are_left_out(
    workflow: Path, path: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "BOUNDS", (50, 10))
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "large.py").write_text("#" * 100)
    path.append(str(tmp_path / "large"))
    archive = UserModules(workflow).archive
    assert archive.names == ("helpers.py",)
    assert str(tmp_path / "large") in [directory for directory, *_ in archive.directories]


def test_calls_in_bursts_look_seldom(workflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = UserModules(workflow)
    looks: list[int] = []

    def look() -> bool:
        looks.append(1)
        return False

    monkeypatch.setattr(tracking, "BURST", 60.0)
    monkeypatch.setattr(found, "_is_edited", look)
    found.changed()
    found._cost = 60.0
    for _ in range(100):
        found.end_call()
        found.changed()
    assert len(looks) == 1
    monkeypatch.setattr(tracking, "BURST", 0.0)
    found.changed()
    found.changed()
    assert len(looks) == 3
