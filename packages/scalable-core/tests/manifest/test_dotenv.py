"""The file ``.env`` beside a manifest."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from scalable.manifest import load_manifest
from scalable.manifest.dotenv import parse_dotenv
from scalable.manifest.errors import ManifestError, ManifestParseError
from scalable.manifest.parser import load_targets

MANIFEST = """
version: 1
project: {name: x}
targets: {l: {provider: demo, account: "${ACCOUNT_OF_A_TEST}"}}
components: {a: {env: {TOKEN: "${ACCOUNT_OF_A_TEST}"}}}
"""


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ACCOUNT_OF_A_TEST", raising=False)
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "scalable.yaml").write_text(MANIFEST)
    monkeypatch.chdir(tmp_path)
    return directory / "scalable.yaml"


def test_it_has_what_the_environment_lacks(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (manifest.parent / ".env").write_text("ACCOUNT_OF_A_TEST=hunter2hunter2\n")

    loaded = load_manifest(manifest)
    assert loaded.components["a"].env["TOKEN"] == "hunter2hunter2"
    assert "hunter2" not in repr(loaded)
    assert loaded.redact("it is hunter2hunter2") == "it is ${ACCOUNT_OF_A_TEST}"
    assert "ACCOUNT_OF_A_TEST" not in os.environ
    monkeypatch.setenv("ACCOUNT_OF_A_TEST", "from the shell")
    assert load_manifest(manifest).components["a"].env["TOKEN"] == "from the shell"
    target = load_targets(manifest)["l"]
    assert not isinstance(target, ManifestError)
    assert target.targets["l"].options["account"] == "from the shell"


def test_only_the_file_beside_the_manifest_is_read(manifest: Path) -> None:
    (manifest.parent.parent / ".env").write_text("ACCOUNT_OF_A_TEST=x\n")

    with pytest.raises(ManifestError, match="ACCOUNT_OF_A_TEST is not set"):
        load_manifest(manifest)


def test_an_environment_that_is_given_is_the_only_one(manifest: Path) -> None:
    (manifest.parent / ".env").write_text("ACCOUNT_OF_A_TEST=x\n")

    with pytest.raises(ManifestError, match="ACCOUNT_OF_A_TEST is not set"):
        load_manifest(manifest, env={})


def test_every_line_that_is_no_variable_is_named_without_its_content(manifest: Path) -> None:
    (manifest.parent / ".env").write_text("A=1\nhunter2\nB='hunter3\n")

    with pytest.raises(ManifestParseError) as raised:
        load_manifest(manifest)
    places = [(Path(str(each.file)).name, each.line) for each in raised.value.issues]
    assert places == [(".env", 2), (".env", 3)]
    assert "hunter" not in str(raised.value)


def test_a_pipe_or_a_device_is_read_as_a_file_is(manifest: Path) -> None:
    """A manager of passwords may serve the file as a pipe."""
    file = manifest.with_name(".env")
    os.mkfifo(file)
    writer = threading.Thread(target=file.write_text, args=("ACCOUNT_OF_A_TEST=piped\n",))
    writer.start()
    assert load_manifest(manifest).components["a"].env == {"TOKEN": "piped"}
    writer.join()
    for device, says in (("/dev/zero", "it is larger than 10 MB"), ("/dev/null", "is not set")):
        file.unlink()
        file.symlink_to(device)
        with pytest.raises(ManifestError, match=says):
            load_manifest(manifest)
    file.unlink()
    file.mkdir()  # an environment of Python's
    with pytest.raises(ManifestError, match="is not set"):
        load_manifest(manifest)


def test_a_file_that_is_no_text_is_named(manifest: Path) -> None:
    (manifest.parent / ".env").write_bytes(b"A=\xff\n")

    with pytest.raises(ManifestParseError, match="not UTF-8"):
        load_manifest(manifest)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A = b c ", "b c"),
        ("A=b#c", "b#c"),
        ("A=b # c", "b"),
        ("A='b # c'", "b # c"),
        ("A=${B}", "${B}"),
        ("A=", ""),
        ("A=''", ""),
        ("  export A=b=c", "b=c"),
        (r'A="b\\c"', r"b\c"),
    ],
)
def test_values_are_those_of_a_shell(line: str, value: str) -> None:
    assert parse_dotenv(line) == ({"A": value}, [])
