"""Scripts run as `python script.py` runs them: each is run both ways and compared."""

import contextlib
import io
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalable.cli.script import (
    Mention,
    compile_script,
    find_mentions,
    find_other_target,
    run_script,
    trim_tracebacks,
)

FACTS = """\
import json, sys, __main__, helpers
print(json.dumps({
    "name": __name__, "file": __file__, "main": __main__.__file__, "spec": __spec__,
    "package": __package__, "doc": __doc__, "argv": sys.argv, "path": sys.path[0],
    "builtins": type(__builtins__).__name__, "helper": helpers.x, "same": vars(__main__) is globals(),
}))
"""


def run(path: Path, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        outcome = run_script(compile_script(path), path, arguments)
        if outcome.error is not None:
            trim_tracebacks(outcome.error)
            sys.excepthook(type(outcome.error), outcome.error, outcome.error.__traceback__)
    return outcome.code, out.getvalue()


def python(path: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, path, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("helpers", None)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "helpers.py").write_text("x = 42\n")
    yield tmp_path
    sys.modules.pop("helpers", None)


@pytest.mark.parametrize(
    "source",
    [
        FACTS,
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(True)",
        "import sys; sys.exit('no more')",
        "raise SystemExit(['a', 'list'])",
        "def f():\n    return 1 / 0\nf()",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('x')",
        "raise ExceptionGroup('several', [ValueError(1), OSError(2)])",
        "import helpers\nhelpers.gone",
        "import sys\nsys.excepthook = lambda t, e, tb: print('hooked', e)\n1 / 0",
    ],
)
def test_a_script_runs_as_under_python(directory: Path, source: str) -> None:
    path = Path("sub") / "script.py"
    path.write_text(source)
    hook = sys.excepthook
    try:
        ours = run(path, "-a", "b")
    finally:
        sys.excepthook = hook

    assert ours == python(path, "-a", "b")


def test_a_linked_script_finds_the_modules_beside_its_target(directory: Path) -> None:
    (directory / "sub" / "script.py").write_text(FACTS)
    (directory / "link.py").symlink_to(directory / "sub" / "script.py")

    assert run(Path("link.py")) == python(Path("link.py"))


def test_a_script_leaves_no_state_behind(directory: Path) -> None:
    path = directory / "sub" / "script.py"
    path.write_text("import sys\nsys.path.append('x')\nsys.argv.append('y')\n1 / 0")
    before = sys.modules["__main__"], list(sys.argv), list(sys.path)

    assert run_script(compile_script(path), path, []).code == 1

    assert (sys.modules["__main__"], sys.argv, sys.path) == before


def test_ctrl_c_is_an_outcome(directory: Path) -> None:
    path = directory / "sub" / "script.py"
    path.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")

    outcome = run_script(compile_script(path), path, [])

    assert outcome.code == 130
    assert isinstance(outcome.error, KeyboardInterrupt)


def test_an_exception_that_is_its_own_context_ends() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__context__, second.__context__ = second, first

    trim_tracebacks(first)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('S.from_yaml(target="there")', (1, "there")),
        (
            'if x:\n    S.from_yaml(target="there")\nelse:\n    S.from_yaml(target="far")',
            (2, "there"),
        ),
        ('S.from_yaml(target="here")', None),
        ('S.from_yaml(target="auto")', None),
        ('S.from_yaml(target="there")\nS.from_yaml()', None),
        ('S.from_yaml(target="there")\nS.from_yaml(target="here")', None),
        ('S.from_yaml(target="there")\nS.from_yaml(target=sys.argv[1])', None),
        ('S.from_yaml("other.yaml", target="there")', None),
        ('S.from_yaml(path="other.yaml", target="there")', None),
        ("S.from_yaml(**options)", None),
        ("print(1)", None),
    ],
)
def test_a_script_for_another_target_only_is_found_out(
    source: str, found: tuple[int, str] | None
) -> None:
    assert find_other_target(source, {"here", "auto"}) == found


@pytest.mark.parametrize(
    ("before", "indent", "after", "is_certain"),
    [
        ("", 0, "", True),
        ("if __name__ == '__main__':", 4, "", True),
        ("def main():", 4, "main()", True),
        ("async def main():", 4, "asyncio.run(main())", True),
        ("def main():", 4, "if __name__ == '__main__':\n    sys.exit(main())", True),
        ("def main():", 4, "", False),
        ("def main():", 4, "if more: main()", False),
        ("if target == 'hpc':", 4, "", False),
        ("for each in many:", 4, "", False),
        ("try:", 4, "except KeyError: pass", False),
        ("with suppress(KeyError):", 4, "", False),
    ],
)
def test_names_in_a_script_are_certain_where_it_cannot_avoid_them(
    before: str, indent: int, after: str, is_certain: bool
) -> None:
    block = (
        "with ScalableSession.from_yaml() as client:\n    client.map(f, range(3), task='simulate')"
    )
    script = "\n".join([before, textwrap.indent(block, " " * indent), after])

    assert find_mentions(script) == [Mention(3, "task", "simulate", is_certain)]


def test_names_in_calls_of_others_are_not_those_of_a_client() -> None:
    assert not find_mentions(
        "with ScalableSession.from_yaml() as client:\n    mlflow.submit(f, tag='x')\n"
        "    client.submit(f, tag=tag)\n    client.submit(f, workers='tag')\n"
    )


def test_a_client_of_a_session_that_is_started_step_by_step_is_known() -> None:
    script = "client = session.start()\nclient.submit(f, tag='x')"

    assert find_mentions(script) == [Mention(2, "tag", "x", True)]


def test_a_helper_that_is_defined_before_the_session_uses_its_client() -> None:
    script = (
        "def go(client):\n    client.submit(f, tag='x')\n"
        "with ScalableSession.from_yaml() as client:\n    go(client)\n"
    )

    assert find_mentions(script) == [Mention(2, "tag", "x", True)]
