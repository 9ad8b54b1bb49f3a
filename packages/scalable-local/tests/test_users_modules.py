"""The user's own modules on workers that are processes: test suites, edits, and what a worker cannot import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = """\
version: 1
project: {name: modules}
targets: {local: {provider: local, workers: 2}}
components: {model: {cpus: 1}}
"""

SUITE = """\
import pytest
from mypackage.inner.model import Model, double
from helper import plus
from scalable.session import ScalableSession


def here(x):
    return x + 1


def lazily():
    import other_helper

    return other_helper.VALUE


@pytest.fixture(scope="module")
def run():
    with ScalableSession.from_yaml() as client:
        def run(function, *args):
            return client.submit(function, *args, tag="model").result(timeout=60)
        yield run


def test_a_module_of_the_source(run):
    assert run(double, 2) == 4


def test_an_instance_of_a_class_of_it(run):
    assert run(lambda model: model.x, Model(3)) == 3


def test_a_function_of_the_test_module(run):
    assert run(here, 2) == 3


def test_a_module_beside_it(run):
    assert run(plus, 2) == 4


def test_a_module_that_only_the_task_imports(run):
    assert run(lazily) == 7


def test_a_class_of_the_conftest(run, configured):
    assert run(lambda one: one.x, configured(5)) == 5
"""

CONFTEST = """\
import pytest


class Configured:
    def __init__(self, x):
        self.x = x


@pytest.fixture
def configured():
    return Configured
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    inner = tmp_path / "src" / "mypackage" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    for file, text in {
        tmp_path / "scalable.yaml": MANIFEST,
        inner.parent / "__init__.py": "",
        inner / "__init__.py": "",
        inner
        / "model.py": "class Model:\n    def __init__(self, x): self.x = x\ndef double(x): return x * 2\n",
        tmp_path / "tests" / "conftest.py": CONFTEST,
        tmp_path / "tests" / "helper.py": "def plus(x): return x + 2\n",
        tmp_path / "tests" / "other_helper.py": "VALUE = 7\n",
        tmp_path / "tests" / "test_model.py": SUITE,
    }.items():
        file.write_text(text)
    return tmp_path


def run(project: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=project, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_suite_of_the_users(project: Path, mode: str) -> None:
    options = f'pythonpath = ["src", "tests"]\naddopts = "--import-mode={mode}"\n'
    (project / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{options}")
    assert "6 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")


WORKFLOW = """\
import functools
import importlib
import sys
import traceback
import types
from pathlib import Path

import dask

from scalable.session import ScalableSession

here = Path(__file__).parent
sys.path.insert(0, str(here / "src"))
import mypackage.workflow

part = here / "src" / "mypackage" / "part.py"
call, dask_call = mypackage.workflow.call, dask.delayed(mypackage.workflow.call, pure=False)


def edit(value):
    part.write_text(f"VALUE = {value}\\n")


with ScalableSession.from_yaml() as client:
    ways = [
        lambda: client.submit(call, tag="model").result(60),
        lambda: client.submit(call, tag="model").result(60),
        lambda: client.submit(call).result(60),
        lambda: client.map(call, [1, 2], tag="model")[1].result(60),
        lambda: client.map(call, [1, 2])[1].result(60),
        lambda: client.submit(functools.partial(call, 1), tag="model").result(60),
        lambda: dask_call().compute(),
        lambda: client.compute(dask_call(), tag="model").result(60),
        lambda: client.get_executor(tag="model").submit(call).result(60),
        lambda: client.submit(mypackage.workflow.in_task, tag="model").result(60),
    ]
    kept = client.submit(call, tag="model")
    for value, way in enumerate(ways):
        edit(value)
        if value % 2:
            importlib.reload(sys.modules["mypackage.workflow"])
        assert way() == value, value

    (here / "new.py").write_text("def new(): return 'new'\\n")
    import new

    assert client.submit(new.new, tag="model").result(60) == "new"

    part.write_text("VALUE = (\\n")
    try:
        client.submit(call, tag="model").result(60)
    except ImportError as error:
        print(error)
    edit(1)
    try:
        client.submit(mypackage.workflow.fail, tag="model").result(60)
    except ValueError:
        traceback.print_exc(file=sys.stdout)

    ghost = types.ModuleType("ghost")
    exec("class Ghost: pass\\ndef haunt(*args): pass", vars(ghost))
    sys.modules["ghost"] = ghost
    for way in (
        lambda: client.submit(ghost.haunt, tag="model"),
        lambda: client.submit(ghost.haunt),
        lambda: client.submit(str, ghost.Ghost(), tag="model"),
        lambda: client.submit(str, [ghost.Ghost()]),
        lambda: client.map(ghost.haunt, [1])[0],
        lambda: client.compute(dask.delayed(ghost.haunt)(1)),
        lambda: client.submit(ghost.Ghost, actor=True),
    ):
        try:
            way().result(20)
        except ModuleNotFoundError as error:
            print(error)
    assert client.submit(len, "go on").result(60) == 5
"""


def test_edits_and_errors(project: Path) -> None:
    package = project / "src" / "mypackage"
    (package / "part.py").write_text("VALUE = -1\n")
    (package / "workflow.py").write_text(
        "def call(*args):\n"
        "    from mypackage.part import VALUE\n"
        "    return VALUE\n"
        "def in_task():\n"
        "    from distributed import get_client\n"
        "    return get_client().submit(call, tag='model', pure=False).result()\n"
        "def fail():\n"
        "    raise ValueError('no such scenario')\n"
    )
    (project / "workflow.py").write_text(WORKFLOW)
    shown = run(project, "workflow.py")
    assert f"'(' was never closed ({package / 'part.py'}, line 1)" in shown
    assert f'File "{package / "workflow.py"}", line 8, in fail\n    raise ValueError' in shown
    missing = (
        r"No module named 'ghost' on worker model-[12] of component 'model'; if it is your own"
    )
    assert len(re.findall(missing, shown)) == 7
