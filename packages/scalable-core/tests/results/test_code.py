"""What code of a user's decides its result: each of these programs, and an edit of it."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalable.results.content import Content, digest_of
from scalable.results.naming import Rule, name_calls

RULE = Rule("task", None, (), ())
Import = Callable[[dict[str, str]], Any]

MAIN = "kept_main.py"
HELPER = "def g(x):\n    return x\n"
EDIT = ("return x", "return -x")


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Return a function that writes a workflow and imports its main module, as the next process does."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("kept_")]:
            del sys.modules[name]

    def write(files: dict[str, str]) -> Any:
        forget()
        root = tmp_path / "workflow"
        shutil.rmtree(root, ignore_errors=True)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module("kept_main")

    monkeypatch.syspath_prepend(tmp_path / "workflow")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    forget()


def name(func: Any, *args: Any, **kwargs: Any) -> str:
    ((call,), _) = name_calls(RULE, func, [args], kwargs)
    assert call.name is not None, call.reason
    return call.name


def reason(func: Any, *args: Any) -> str:
    ((call,), _) = name_calls(RULE, func, [args], {})
    assert call.name is None
    return call.reason


def edited(files: dict[str, str], edit: tuple[str, str]) -> dict[str, str]:
    assert any(edit[0] in text for text in files.values())
    return {name: text.replace(*edit) for name, text in files.items()}


PATH = """
import importlib.util, pathlib
spec = importlib.util.spec_from_file_location("kept_at", pathlib.Path(__file__).parent / "inner" / "at.py")
at = importlib.util.module_from_spec(spec)
spec.loader.exec_module(at)
"""

CHANGES: dict[str, tuple[dict[str, str], tuple[str, str]]] = {
    # Modules
    "a package without __init__": (
        {MAIN: "import kept_p.a\ndef f(x): return kept_p.a.g(x)\n", "kept_p/a.py": HELPER},
        EDIT,
    ),
    "a package without __init__, used as a value": (
        {
            MAIN: "import kept_p.a\ndef f(x): return getattr(kept_p, 'a').g(x)\n",
            "kept_p/a.py": HELPER,
        },
        EDIT,
    ),
    "a module inside of two packages": (
        {
            MAIN: "import kept_p.q.a\ndef f(x): return kept_p.q.a.g(x)\n",
            "kept_p/__init__.py": "",
            "kept_p/q/__init__.py": "",
            "kept_p/q/a.py": HELPER,
        },
        EDIT,
    ),
    "a module inside of a package that a function imports": (
        {
            MAIN: "import kept_p.a\ndef f(x):\n    import kept_p as p\n    return p.a.g(x)\n",
            "kept_p/__init__.py": "",
            "kept_p/a.py": HELPER,
        },
        EDIT,
    ),
    "a package that a function imports and uses as a value": (
        {
            MAIN: "import kept_p.a\ndef f(x):\n    import kept_p\n    return getattr(kept_p, 'a').g(x)\n",
            "kept_p/__init__.py": "",
            "kept_p/a.py": HELPER,
        },
        EDIT,
    ),
    "a function of a module that is read from a path": (
        {MAIN: f"{PATH}def f(x): return at.g(x)\n", "inner/at.py": HELPER},
        EDIT,
    ),
    "a module that is read from a path, used as a value": (
        {MAIN: f"{PATH}def f(x): return getattr(at, 'g')(x)\n", "inner/at.py": HELPER},
        EDIT,
    ),
    "a class of a module that is read from a path": (
        {
            MAIN: f"{PATH}A = at.A\ndef f(x): return A().g(x)\n",
            "inner/at.py": "class A:\n    def g(self, x):\n        return x\n",
        },
        EDIT,
    ),
    "a module that is made by hand": (
        {
            MAIN: "import types\nmade = types.ModuleType('kept_made')\n"
            "exec('def g(x): return x', vars(made))\ndef f(x): return made.g(x)\n"
        },
        EDIT,
    ),
    "a function that a module makes when it is asked for it": (
        {
            MAIN: "import kept_h\ndef f(x): return kept_h.lazy(x)\n",
            "kept_h.py": f"{HELPER}def __getattr__(name): return g\n",
        },
        EDIT,
    ),
    "what a function without source imports": (
        {
            MAIN: "exec('def f(x):\\n    from kept_h import g\\n    return g(x)')\n",
            "kept_h.py": HELPER,
        },
        EDIT,
    ),
    "what a function without source imports as a module": (
        {
            MAIN: "exec('def f(x):\\n    import kept_p\\n    return kept_p.a.g(x)')\n",
            "kept_p/__init__.py": "",
            "kept_p/a.py": HELPER,
        },
        EDIT,
    ),
    "an item that a module has set, which this process has set as well": (
        {
            MAIN: "import kept_h\nkept_h.T['a'] = 7\ndef f(x): return kept_h.T\n",
            "kept_h.py": "T = {}\nT['a'] = 1\n",
        },
        ("= 1", "= 2"),
    ),
    # Functions
    "an attribute of the function itself": (
        {MAIN: "def f(x): return x * f.scale\nf.scale = 2\n"},
        ("= 2", "= 3"),
    ),
    "an attribute that a decorator sets": (
        {
            MAIN: "K = 1\ndef mark(f): f.k = K; return f\n@mark\ndef f(x): return f.k\nK = 0\n"
            "del K\n"
        },
        ("K = 1", "K = 2"),
    ),
    "a wrapper that names itself after a function of Dask": (
        {MAIN: "import functools, dask\n@functools.wraps(dask.compute)\ndef f(x): return x\n"},
        EDIT,
    ),
    "one of several functions by the type of an argument": (
        {
            MAIN: "import functools\n@functools.singledispatch\ndef g(x): return 0\n"
            "@g.register\ndef _(x: int): return x\ndef f(x): return g(x)\n"
        },
        EDIT,
    ),
    "the function of a numpy.vectorize": (
        {MAIN: f"import numpy as np\n{HELPER}v = np.vectorize(g)\ndef f(x): return v(x)\n"},
        EDIT,
    ),
    # Classes
    "a method that is set later": (
        {
            MAIN: "class A:\n    def g(self): return 0\ndef fast(x): return x\nsetattr(A, 'g', fast)\n"
            "def f(x): return A().g()\n"
        },
        EDIT,
    ),
    "a property that is set later": (
        {
            MAIN: "class A: pass\ndef fast(x): return x\nsetattr(A, 'g', property(fast))\n"
            "def f(x): return A().g\n"
        },
        EDIT,
    ),
    "a class that is set later": (
        {
            MAIN: "class A: pass\nclass Other:\n    def g(self, x): return x\nsetattr(A, 'Other', Other)\n"
            "def f(x): return A.Other().g(x)\n"
        },
        EDIT,
    ),
    "a path of a class": (
        {
            MAIN: "import pathlib\nclass A: root = None\nsetattr(A, 'root', pathlib.Path('a'))\n"
            "def f(x): return A.root\n"
        },
        ("'a'", "'b'"),
    ),
    "an object of a class": (
        {
            MAIN: "class C:\n    def __init__(self, v): self.v = v\nclass A: c = None\nsetattr(A, 'c', C(1))\n"
            "def f(x): return A.c.v\n"
        },
        ("C(1)", "C(2)"),
    ),
    "a method of a class made by type": (
        {
            MAIN: "def g(self): return 1\nA = type('A', (), {'g': g, '__module__': 'json'})\n"
            "def f(x): return A().g()\n"
        },
        ("return 1", "return 2"),
    ),
    "a method of a class made by make_dataclass": (
        {
            MAIN: "import dataclasses\ndef g(self): return 1\n"
            "A = dataclasses.make_dataclass('A', ['a'], namespace={'g': g})\n"
            "def f(x): return A(1).g()\n"
        },
        ("return 1", "return 2"),
    ),
    "a default of an abstract class without source": (
        {MAIN: "import abc\nexec('class A(abc.ABC): x = 1')\ndef f(x): return A.x\n"},
        ("= 1", "= 2"),
    ),
    "a method of an abstract class without source": (
        {
            MAIN: "import abc\nexec('class A(abc.ABC):\\n    def g(self): return 1')\n"
            "def f(x): return A().g()\n"
        },
        ("return 1", "return 2"),
    ),
    "a default of a pydantic model without source": (
        {
            MAIN: "import pydantic\nexec('class A(pydantic.BaseModel): x: int = 1')\ndef f(x): return A()\n"
        },
        ("= 1", "= 2"),
    ),
    "a method of an enumeration without source": (
        {
            MAIN: "import enum\nexec('class A(enum.Enum):\\n    B = 1\\n    def g(self): return 1')\n"
            "def f(x): return A.B.g()\n"
        },
        ("return 1", "return 2"),
    ),
    "a member of an enumeration without source": (
        {MAIN: "import enum\nexec('class A(enum.Enum): B = 1')\ndef f(x): return A.B\n"},
        ("= 1", "= 2"),
    ),
}

SAMES: dict[str, tuple[dict[str, str], tuple[str, str]]] = {
    "a global of the name of an argument": (
        {MAIN: "def f(x): return x\n"},
        ("def f", "import threading\nx = threading.Lock()\ndef f"),
    ),
    "globals of the names of local variables": (
        {MAIN: "def f(x):\n    y = [i for i in x]\n    return y, (lambda z: z)(x)\n"},
        ("def f", "y, i, z = 1, 2, 3\ndef f"),
    ),
    "a global of the name of an attribute, for a function without source": (
        {MAIN: "exec('def f(x): return x.real')\n"},
        ("exec", "real = 3\nexec"),
    ),
    "a call of a function that dispatches by type": (
        {
            MAIN: "import functools\n@functools.singledispatch\ndef g(x): return 0\n# call\n"
            "def f(x): return g(x)\n"
        },
        ("# call", "g(1)"),
    ),
    "a call of a numpy.vectorize": (
        {
            MAIN: "import numpy as np\ndef g(x): return x\nv = np.vectorize(g, otypes=[float])\n# call\n"
            "def f(x): return v(x)\n"
        },
        ("# call", "v([1])"),
    ),
    "a decorator that leaves nothing behind": (
        {MAIN: "def deco(f):\n    print(1)\n    return f\n@deco\ndef f(x): return x\n"},
        ("print(1)", "print(2)"),
    ),
    "comments in a package that counts whole": (
        {
            MAIN: "import kept_p\ndef f(x): return getattr(kept_p, 'a').g(x)\n",
            "kept_p/__init__.py": "from . import a\n",
            "kept_p/a.py": "def g(x): return x\n",
        },
        ("return x", "return (x)  # new"),
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_edit_counts(imported: Import, case: str) -> None:
    files, edit = CHANGES[case]
    before = name(imported(files).f, 1)
    assert name(imported(files).f, 1) == before
    assert name(imported(edited(files, edit)).f, 1) != before


@pytest.mark.parametrize("case", SAMES)
def test_none_of_these_edits_counts(imported: Import, case: str) -> None:
    files, edit = SAMES[case]
    assert name(imported(edited(files, edit)).f, 1) == name(imported(files).f, 1)


def test_names_that_only_look_local_count(imported: Import) -> None:
    """Each of these reads a global, and has a name of its own that is the same."""
    texts = [
        "def f(x):\n    def inner(): v = 2; return v\n    return v, inner\n",
        "def f(x):\n    def inner():\n        global v\n        return v\n    return inner\n",
        "def f(x):\n    class A: v = v\n    return A\n",
        "def f(x): return f'{[v for w in [0]]!r:>{x}}'\n",
        "def f(x):\n    n = 1\n    def inner():\n        nonlocal n\n        n = v\n    return inner\n",
        "class A:\n    v = v\n    def g(self): return self.v\ndef f(x): return A().g()\n",
        "class A:\n    def g(self): return v\n    v = 3\ndef f(x): return A().g()\n",
    ]
    for text in texts:
        one, other = (name(imported({MAIN: f"v = {v}\n{text}"}).f, 1) for v in (1, 2))
        assert one != other, text


def test_a_function_that_replaces_itself_reads_its_successor(imported: Import) -> None:
    text = "def f(x): return f(x) if x else 0\nfirst = f\ndef f(x):\n    return x\n"
    one, other = (
        name(imported(files).first, 1) for files in ({MAIN: text}, edited({MAIN: text}, EDIT))
    )
    assert one != other


def test_classes_made_by_one_function_are_told_apart(imported: Import) -> None:
    made = imported(
        {
            MAIN: "def make(n):\n    class A:\n        def g(self): return n\n    return A\n"
            "def other(n):\n    class A:\n        def g(self, x=n): return x\n    return A\n"
        }
    )
    for make in (made.make, made.other):
        assert len({digest_of(make(n)) for n in (1, 2)}) == 2
        assert digest_of(make(1)) == digest_of(make(1))


def test_nothing_is_imported_to_name_a_call(imported: Import) -> None:
    for failing in ("raise RuntimeError('no display')", "raise SystemExit(3)"):
        files = {
            MAIN: "def f(x):\n    from kept_p import a\n    return a.g(x)\n",
            "kept_p/__init__.py": f"{failing}\n",
            "kept_p/a.py": HELPER,
        }
        before = name(imported(files).f, 1)
        assert name(imported(edited(files, EDIT)).f, 1) != before
        assert "kept_p" not in sys.modules


def test_compiled_modules_of_the_user_count_whole(imported: Import) -> None:
    import py_compile

    names = set()
    for text in (HELPER, HELPER.replace(*EDIT), HELPER):
        files = {MAIN: "def f(x):\n    import kept_c\n    return kept_c.g(x)\n", "kept_c.py": text}
        source = Path(imported(files).__file__).with_name("kept_c.py")
        py_compile.compile(
            str(source),
            cfile=str(source.with_suffix(".pyc")),
            dfile="kept_c.py",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        source.unlink()
        importlib.invalidate_caches()
        names.add(name(sys.modules["kept_main"].f, 1))
    assert len(names) == 2


def test_functions_of_a_cycle_have_one_digest_each_whatever_was_read_before(
    imported: Import,
) -> None:
    made = imported(
        {MAIN: "def e(n): return n == 0 or o(n - 1)\ndef o(n): return n != 0 and e(n - 1)\n"}
    )
    for first, second in ((made.e, made.o), (made.o, made.e)):
        content = Content()
        assert [content.digest(first), content.digest(second)] == [
            Content().digest(first),
            Content().digest(second),
        ]
    assert digest_of(made.e) != digest_of(made.o)


def test_what_has_no_content_is_named_once(imported: Import) -> None:
    text = "import threading\n"
    text += "def f(x): return g(x)\ndef g(x): return h(x)\ndef h(x):\n    with LOCK: return x\n"
    made = imported({MAIN: text + "LOCK = threading.Lock()\n"})
    lock = "a _thread.lock: cannot pickle '_thread.lock' object"
    assert reason(made.f, 1) == f"global 'kept_main.LOCK' is {lock}; make it inside of the function"
    assert reason(imported({MAIN: "def f(x): return x\n"}).f, made.f) == (
        f"of argument 'x', global 'kept_main.LOCK' is {lock}; see `ignore`"
    )
    made = imported({MAIN: "import threading\ndef f(x, log=threading.Lock()): return x\n"})
    assert (
        reason(made.f, 1)
        == f"the default of log in kept_main.f is {lock}; make it inside of the function"
    )
    made = imported(
        {
            MAIN: "import threading\ndef make(lock):\n    def f(x): return lock\n    return f\n"
            "f = make(threading.Lock())\n"
        }
    )
    assert (
        reason(made.f, 1)
        == f"lock around kept_main.make.<locals>.f is {lock}; make it inside of the function"
    )
    made = imported(
        {
            MAIN: "import threading\nclass A:\n    table = {1: threading.Lock()}\ndef f(x): return A\n"
        }
    )
    assert reason(made.f, 1) == f"kept_main.A.table is {lock}; make it inside of the function"


def test_a_value_that_fails_when_it_is_read_is_no_error(imported: Import) -> None:
    made = imported(
        {
            MAIN: "class A:\n    def __getattr__(self, name): raise KeyError(name)\n"
            "def f(x): return x\n"
        }
    )
    assert "a kept_main.A, which cannot be read: KeyError('__dask_graph__')" in reason(
        made.f, made.A()
    )


def test_arguments_of_one_name_are_told_apart(imported: Import) -> None:
    f = imported({MAIN: "def f(x, /, **more): return x, more\n"}).f
    assert len({name(f, 1, x=2), name(f, 2, x=2), name(f, 2, x=1), name(f, 1)}) == 4
