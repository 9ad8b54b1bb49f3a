import io
import os
import re
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from scalable.errors import ModulesError
from scalable.modules import pack_modules, pack_workflow


def write(root: Path, *names: str, text: str = "x = 1\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_packs_what_import_finds_beside_a_script(tmp_path: Path) -> None:
    write(
        tmp_path,
        "workflow.py",
        "helpers.py",
        "package/__init__.py",
        "package/data/table.csv",
        "plain/module.py",
        "plain/deeper/module.py",
        f"model{EXTENSION_SUFFIXES[0]}",  # as f2py writes it
    )
    # None of these can be imported, or none should be sent.
    write(
        tmp_path,
        "notes.txt",
        "results/big.nc",
        "plain/output.csv",
        "libmodel.so",
        f"not-a-name{EXTENSION_SUFFIXES[0]}",
        "not-a-name/module.py",
        ".hidden/module.py",
        "package/__pycache__/helpers.cpython-311.pyc",
        "package/old.pyc",
        "package/.git/config",
        "venv/pyvenv.cfg",
        "venv/module.py",
    )

    archive = pack_workflow(tmp_path)

    assert archive is not None
    assert archive.names == (
        "helpers.py",
        f"model{EXTENSION_SUFFIXES[0]}",
        "package/__init__.py",
        "package/data/table.csv",
        "plain/deeper/module.py",
        "plain/module.py",
        "workflow.py",
    )
    assert zipfile.ZipFile(io.BytesIO(archive.data)).namelist() == list(archive.names)


def test_names_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "workflow.py", "package/__init__.py")
    for name in (b"old\xff.py", b"package/table\xff.csv"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    archive = pack_workflow(tmp_path)
    assert archive is not None
    assert archive.names == ("package/__init__.py", "workflow.py")


def test_a_workflow_inside_a_package_imports_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "__init__.py", "helpers.py")

    archive = pack_workflow(tmp_path)

    assert archive is not None
    assert archive.names == ("__init__.py", "helpers.py")


def test_nothing_to_import_gives_no_archive(tmp_path: Path) -> None:
    write(tmp_path, "notebook.ipynb", "data/table.csv")

    assert pack_workflow(tmp_path) is None
    assert pack_modules([]) is None


def test_listed_files_packages_and_directories_go_by_the_name_import_uses(tmp_path: Path) -> None:
    write(
        tmp_path, "lib/inner.py", "package/__init__.py", "package/part.py", "single.py", "other.py"
    )

    archive = pack_modules([tmp_path / "lib", tmp_path / "package", tmp_path / "single.py"])

    assert archive is not None
    assert archive.names == ("inner.py", "package/__init__.py", "package/part.py", "single.py")


def test_the_first_of_two_files_of_one_name_wins(tmp_path: Path) -> None:
    write(tmp_path / "a", "m.py", text="'a'")
    write(tmp_path / "b", "m.py", text="'b'")

    archive = pack_modules([tmp_path / "a", tmp_path / "b"])

    assert archive is not None
    assert zipfile.ZipFile(io.BytesIO(archive.data)).read("m.py") == b"'a'"


def test_equal_files_give_equal_bytes_whenever_and_wherever_they_were_written(
    tmp_path: Path,
) -> None:
    write(tmp_path / "one", "z.py", "a.py", "p/__init__.py")
    write(tmp_path / "two", "p/__init__.py", "a.py", "z.py")
    os.utime(tmp_path / "two" / "a.py", (1, 1))

    one, two = pack_workflow(tmp_path / "one"), pack_workflow(tmp_path / "two")

    assert one == two
    write(tmp_path / "two", "a.py", text="x = 2\n")
    changed = pack_workflow(tmp_path / "two")
    assert one is not None
    assert changed is not None
    assert changed.digest != one.digest


def test_moving_bytes_between_files_changes_the_digest(tmp_path: Path) -> None:
    write(tmp_path / "one", "a.py", text="12")
    write(tmp_path / "one", "b.py", text="3")
    write(tmp_path / "two", "a.py", text="1")
    write(tmp_path / "two", "b.py", text="23")

    one, two = pack_workflow(tmp_path / "one"), pack_workflow(tmp_path / "two")

    assert one is not None
    assert two is not None
    assert one.digest != two.digest


def test_a_package_that_links_to_its_own_parent_is_packed_once(tmp_path: Path) -> None:
    write(tmp_path, "package/__init__.py")
    (tmp_path / "package" / "again").symlink_to(tmp_path / "package", target_is_directory=True)

    archive = pack_workflow(tmp_path)

    assert archive is not None
    assert archive.names == ("package/__init__.py",)


def test_too_much_names_the_biggest_files(tmp_path: Path) -> None:
    write(tmp_path, "package/__init__.py", "package/small.csv")
    write(tmp_path, "package/big.bin", text="x" * 3_000_000)
    write(tmp_path, "package/bigger.bin", text="x" * 4_000_000)

    with pytest.raises(
        ModulesError, match=r"6\.7 MiB.*4\.0 MiB.*bigger\.bin \(3\.8 MiB\).*big\.bin \(2\.9 MiB\)"
    ):
        pack_workflow(tmp_path, max_bytes=4 * 1024**2)


def test_too_many_files_end_the_search(tmp_path: Path) -> None:
    write(tmp_path, *(f"m{i}.py" for i in range(6)))

    assert pack_workflow(tmp_path, max_files=6) is not None
    with pytest.raises(ModulesError, match=r"more than 5 files.*project\.modules"):
        pack_workflow(tmp_path, max_files=5)


@pytest.mark.parametrize(
    ("name", "problem"), [("gone", "does not exist"), ("table.csv", "neither a module nor")]
)
def test_a_listed_path_that_cannot_be_imported_is_named(
    tmp_path: Path, name: str, problem: str
) -> None:
    write(tmp_path, "table.csv")

    with pytest.raises(ModulesError, match=f"{name}.*{re.escape(problem)}"):
        pack_modules([tmp_path / name])


def test_what_is_not_a_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.py").symlink_to(tmp_path / "gone.py")
    os.mkfifo(tmp_path / "pipe.py")
    write(tmp_path, "fine.py")

    archive = pack_workflow(tmp_path)

    assert archive is not None
    assert archive.names == ("fine.py",)


def test_the_archive_can_be_imported_from(tmp_path: Path) -> None:
    write(tmp_path / "src", "package/__init__.py", text="from package.part import answer\n")
    write(tmp_path / "src", "package/part.py", text="answer = 42\n")

    archive = pack_workflow(tmp_path / "src")

    assert archive is not None
    (tmp_path / "modules.zip").write_bytes(archive.data)
    answer = subprocess.run(
        [sys.executable, "-c", "import package; print(package.answer)"],
        env={"PYTHONPATH": str(tmp_path / "modules.zip")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "42\n"
