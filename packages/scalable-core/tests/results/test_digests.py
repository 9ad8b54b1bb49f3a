"""Digests of values and code: equal for equal content, everywhere, and different for everything else."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import importlib
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import scalable.results
from scalable.results.content import Content, NoContentError, digest_of
from scalable.results.naming import (
    NamedCall,
    Rule,
    TaskRule,
    _Arguments,
    name_calls,
    rule_for,
)

RULE = Rule("task", None, (), ())
Module = Callable[..., Any]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Return a function that writes a module of the user's, and imports it anew, as the next process does."""
    monkeypatch.syspath_prepend(tmp_path)
    written: set[str] = set()

    def write(text: str, name: str = "kept_model") -> Any:
        (tmp_path / f"{name}.py").write_text(text)
        written.add(name)
        for each in written:
            sys.modules.pop(each, None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for each in written:
        sys.modules.pop(each, None)


def name(func: Any, *args: Any, rule: Rule = RULE, **kwargs: Any) -> str:
    ((call,), _) = name_calls(rule, func, [args], kwargs)
    assert call.name is not None, call.reason
    return call.name


def reason(func: Any, *args: Any) -> str:
    ((call,), _) = name_calls(RULE, func, [args], {})
    assert call.name is None
    return call.reason


# -- Values

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=8,
)


def rebuilt(value: Any) -> Any:
    """Return an equal value that shares no object."""
    import pickle

    return pickle.loads(pickle.dumps(value))


@given(PLAIN)
def test_equal_content_has_one_digest(value: Any) -> None:
    assert digest_of(value) == digest_of(rebuilt(value))


@given(PLAIN, PLAIN)
def test_different_content_has_two(one: Any, other: Any) -> None:
    if repr(one) != repr(other):
        assert digest_of(one) != digest_of(other)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Point:
    x: int = 0
    y: int = 0


masked: Any = np.ma.array
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
DISORDERED = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]})
Pair = namedtuple("Pair", "a b")

DIFFERENT: list[list[Any]] = [
    [1, 1.0, True, "1", b"1", [1], (1,), {1}, {1: 1}, np.int64(1), np.float64(1), np.array(1)],
    [0.0, -0.0, float("nan"), None, "", b"", [], (), {}, set(), "nan"],
    [["ab", "c"], ["a", "bc"], ["abc"], [["ab"], "c"]],
    [{"a": 1, "b": 2}, {"b": 1, "a": 2}],
    [Colour.RED, Colour.BLUE],
    [Point(1, 2), Point(2, 1), Pair(1, 2), (1, 2)],
    [pathlib.Path("/a"), pathlib.Path("/b"), "/a"],
    [datetime.datetime(2020, 1, 1), datetime.date(2020, 1, 1), datetime.timedelta(1)],
    [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2020, 1, 1)],
    [decimal.Decimal("1.0"), decimal.Decimal("1.00")],
    [re.compile("a"), re.compile("a", re.I), re.compile("b")],
    [deque([1]), deque([1], 5), OrderedDict(a=1), defaultdict(int, a=1)],
    [np.arange(6), np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2), np.arange(6.0)],
    [np.zeros(2, "i4"), np.zeros(4, "i2"), np.zeros(1, "i8"), np.zeros(2, "u4"), np.zeros(2, "f4")],
    [np.array(["a", None], object), np.array(["a", 1], object), np.array(["a", "b"])],
    [np.zeros(2, [("a", "f8"), ("b", "f8")]), np.zeros(2, [("a", "f8"), ("c", "f8")])],
    [np.array(["2020"], "M8[D]"), np.array(["2020"], "M8[s]"), np.array(["2021"], "M8[D]")],
    [np.zeros(2, ALIGNED), np.ones(2, ALIGNED), np.zeros((1, 2), ALIGNED)],
    [np.zeros(2, DISORDERED), np.ones(2, DISORDERED), np.dtype(DISORDERED)],
    [np.array(x, "g") / 3 for x in (1.0, -1.0, 0.0, -0.0, np.inf, np.nan)],
    [np.longdouble("1e4000"), np.longdouble("2e4000"), np.longdouble("-1e4000")],
    [masked([1, 2], mask=[0, 1]), masked([1, 2], mask=[1, 0]), np.array([1, 2]), np.ma.masked],
    [np.vectorize(len), np.vectorize(sum), np.vectorize(len, otypes="d")],
    [np.random.default_rng(1), np.random.default_rng(2)],
    [pd.Series([1, 2]), pd.Series([1, 2], name="a"), pd.Series([1, 2], index=[1, 2])],
    [pd.Series([1.0, None]), pd.Series([1, None], dtype="Int64"), pd.Series(["a", None])],
    [pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": ["1"]})],
    [pd.Series(["a", "b"], dtype="category"), pd.Series(["b", "a"], dtype="category")],
    [pd.date_range("2020", periods=3), pd.date_range("2020", periods=3, tz="UTC")],
    [pd.MultiIndex.from_product([[1, 2], ["a"]]), pd.MultiIndex.from_product([[2, 1], ["a"]])],
    [
        xr.DataArray(np.zeros(2), dims="x"),
        xr.DataArray(np.zeros(2), dims="y"),
        xr.DataArray(np.zeros(2), dims="x", coords={"x": [1, 2]}),
        xr.DataArray(np.zeros(2), dims="x", attrs={"units": "K"}),
        xr.Dataset({"a": ("x", np.zeros(2))}),
        xr.Dataset({"a": ("x", np.zeros(2))}, attrs={"source": "x"}),
    ],
    [len, sum, np.sin, np.cos, "".join, "a".join, functools.partial(sum), functools.partial(len)],
]


@pytest.mark.parametrize("values", DIFFERENT, ids=lambda values: type(values[0]).__name__)
def test_each_of_these_has_a_digest_of_its_own(values: list[Any]) -> None:
    digests = [digest_of(value) for value in values]
    assert len({*digests}) == len(values)
    assert digests == [digest_of(rebuilt(value)) for value in values]


def test_what_is_not_initialised_does_not_count() -> None:
    digests = set()
    for filling in (0, 255):
        array = np.full(2 * ALIGNED.itemsize, filling, np.uint8).view(ALIGNED)
        array["a"], array["b"] = 1, 2
        digests.add(digest_of(array))
    assert len(digests) == 1


def test_metadata_of_a_type_of_numpy_is_no_matter_for_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    with_metadata: Any = np.dtype("f8", metadata={"a": 1})
    assert digest_of(np.zeros(2, with_metadata)) == digest_of(np.zeros(2))
    assert not recwarn.list


def test_a_function_that_numpy_hides_has_no_content() -> None:
    made = np.frompyfunc(lambda x: x, 1, 1)
    with pytest.raises(NoContentError, match=r"a numpy.ufunc that is made of a function of Python"):
        digest_of(made)


class Frame(pd.DataFrame):
    _metadata = ["crs"]  # noqa: RUF012 - as pandas says

    @property
    def _constructor(self) -> type[Frame]:
        return Frame


def test_what_a_subclass_of_a_frame_adds_counts() -> None:
    frames = [Frame({"a": [1]}) for _ in range(3)]
    for frame, crs in zip(frames, ("EPSG:1", "EPSG:2", "EPSG:1"), strict=True):
        frame.crs = crs  # type: ignore[attr-defined]
    one, two, same = map(digest_of, frames)
    assert one == same != two


class Places(pd.api.extensions.ExtensionArray):
    """An array of another package, which has more than its items."""

    def __init__(self, crs: str) -> None:
        self.crs = crs

    dtype: Any = property(lambda self: Kind())

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: Any) -> Any:
        return 1 if isinstance(item, int) else self

    def copy(self) -> Places:
        return self


class Kind(pd.api.extensions.ExtensionDtype):
    name, type = "place", int

    @classmethod
    def construct_array_type(cls) -> Any:
        return Places


def test_what_an_array_of_another_package_has_counts() -> None:
    one, two, same = (digest_of(pd.Series(Places(crs))) for crs in "aba")
    assert one == same != two


class Node:
    def __init__(self) -> None:
        self.near: Any = []


def grid(size: int, kind: type = list) -> Node:
    """Return a corner of a square of objects, each of which knows those beside it."""
    nodes = {(i, j): Node() for i in range(size) for j in range(size)}
    for (i, j), node in nodes.items():
        beside = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        node.near = kind(nodes[each] for each in beside if each in nodes)
    return nodes[0, 0]


def test_what_is_reached_in_many_ways_is_read_once() -> None:
    assert digest_of(grid(12)) == digest_of(grid(12)) != digest_of(grid(11))
    assert digest_of(grid(2, set)) == digest_of(grid(2, set)) != digest_of(grid(2))
    shared: list[Any] = [{}]
    for _ in range(60):
        shared = [shared, shared]
    assert digest_of(shared) == digest_of([shared[0], shared[1]])


def test_where_something_is_does_not_count() -> None:
    """The digest of what contains itself is the same inside of something, and after something else."""
    loop: list[Any] = []
    loop += [loop, {}]
    apart = [digest_of([[loop]]), digest_of(loop)]
    content = Content()
    assert [content.digest([[loop]]).hex(), content.digest(loop).hex()] == apart
    assert [content.digest(loop).hex(), content.digest([[loop]]).hex()] == apart[::-1]


def test_a_value_that_changes_between_calls_has_another_digest() -> None:
    content, value = Content(), [[]]  # type: ignore[var-annotated]
    before = content.digest(value)
    value[0].append(1)
    assert content.digest(value) != before


def test_the_layout_in_memory_does_not_count() -> None:
    array = np.arange(6).reshape(2, 3)
    for same in (np.asfortranarray(array), np.arange(12).reshape(2, 6)[:, ::2] // 2, array.copy()):
        assert (same == array).all()
        assert digest_of(same) == digest_of(array)


@pytest.mark.parametrize("value", [threading.Lock(), iter(x for x in "a"), [sys.stdout]])
def test_what_has_no_content_is_refused(value: Any) -> None:
    with pytest.raises(NoContentError):
        digest_of(value)


def test_what_contains_itself_has_a_digest() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [2]
    other.append(other)
    assert digest_of(one) != digest_of(other)


def test_a_lazy_array_has_no_content() -> None:
    pytest.importorskip("dask.array")
    lazy = xr.DataArray(np.zeros(4), dims="x").chunk(2)
    with pytest.raises(NoContentError, match="not computed yet"):
        digest_of(lazy)


# -- Code

TEXT = """
import math

SCALE = 3
TABLE = {"a": 1}


class Model:
    rate = 2

    def run(self, x):
        return x * self.rate * SCALE


def helper(x):
    return math.sqrt(x) + SCALE


def simulate(member, verbose=False):
    model = Model()
    return helper(model.run(member)) + TABLE["a"]


def other(member):
    return member
"""

SAME = [
    (
        "def simulate(member, verbose=False):",
        "# new\n\n\ndef simulate(\n    member, verbose=False\n):",
    ),
    (
        "    return math.sqrt(x) + SCALE",
        "    # a comment\n    return (math.sqrt(x)\n            + SCALE)",
    ),
    ("def other(member):\n    return member", "def other(member):\n    return -member"),
    ("import math\n", "import math\nimport os\nUNUSED = 5\n"),
    ('{"a": 1}', "{'a': 1}"),
]
CHANGES = [
    ("SCALE = 3", "SCALE = 4"),
    ('{"a": 1}', '{"a": 2}'),
    ("rate = 2", "rate = 3"),
    ("x * self.rate", "x + self.rate"),
    ("math.sqrt(x)", "math.sin(x)"),
    ("helper(model", "other(model"),
    ("verbose=False", "verbose=True"),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_comments_formatting_and_unused_code_do_not_count(
    module: Module, old: str, new: str
) -> None:
    before = name(module(TEXT).simulate, 1)
    assert old in TEXT
    assert name(module(TEXT.replace(old, new)).simulate, 1) == before


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_each_change_of_what_is_computed_counts(module: Module, old: str, new: str) -> None:
    before = name(module(TEXT).simulate, 1)
    assert old in TEXT
    changed = module(TEXT.replace(old, new))
    assert name(changed.simulate, 1) != before
    if old != "helper(model":
        before_other = name(module(TEXT).other, 1)
        assert name(module(TEXT.replace(old, new)).other, 1) == before_other


def test_a_change_in_another_module_counts(module: Module) -> None:
    users = {
        "import": "import kept_helper\ndef simulate(x): return kept_helper.f(x)\n",
        "from": "from kept_helper import f\ndef simulate(x): return f(x)\n",
        "inside": "def simulate(x):\n    from kept_helper import f\n    return f(x)\n",
        "whole": "import kept_helper\ndef simulate(x): return getattr(kept_helper, 'f')(x)\n",
    }
    for how, text in users.items():
        module("def f(x): return x\n", "kept_helper")
        before = name(module(text).simulate, 1)
        module("def f(x): return x  # the same\n", "kept_helper")
        assert name(module(text).simulate, 1) == before, how
        module("def f(x): return -x\n", "kept_helper")
        assert name(module(text).simulate, 1) != before, how


def test_a_name_that_is_bound_to_another_function_counts(module: Module) -> None:
    module("def f(x): return x\ndef g(x): return -x\n", "kept_helper")
    one = name(module("from kept_helper import f as h\ndef simulate(x): return h(x)\n").simulate, 1)
    two = name(module("from kept_helper import g as h\ndef simulate(x): return h(x)\n").simulate, 1)
    assert one != two


def test_an_edit_after_the_import_is_not_taken_for_what_runs(
    module: Module, tmp_path: Path
) -> None:
    imported = module(TEXT)
    before = name(imported.simulate, 1)
    (tmp_path / "kept_model.py").write_text(TEXT.replace("math.sqrt(x) + SCALE", "x"))
    edited = name(imported.simulate, 1)  # the function is the old one, and the file is new
    assert edited != name(module((tmp_path / "kept_model.py").read_text()).simulate, 1)
    assert name(module(TEXT).simulate, 1) == before


def test_closures_partials_methods_and_lambdas_are_told_apart(module: Module) -> None:
    made = module(
        "import functools\n"
        "def make(n):\n    def inner(x): return x + n\n    return inner\n"
        "class Model:\n    def __init__(self, n): self.n = n\n    def run(self, x): return x + self.n\n"
        "f, g = (lambda x: x + 1), (lambda x: x + 2)\n"
        "outer = lambda n: (lambda x: x * n)\n"
        "pairs = [*{(lambda: 1): (lambda: 2)}.items()][0]\n"
        "def base(x, y): return x - y\n"
    )
    functions = [
        *(
            made.make(1),
            made.make(2),
            made.Model(1).run,
            made.Model(2).run,
            made.f,
            made.g,
            made.base,
        ),
        *(made.outer, made.outer(1), made.pairs[0], made.pairs[1]),
        *(functools.partial(made.base, y=1), functools.partial(made.base, y=2)),
    ]
    assert len({digest_of(each) for each in functions}) == len(functions)
    assert digest_of(made.make(1)) == digest_of(made.make(1))


def test_what_this_process_has_set_in_a_module_is_not_all(module: Module) -> None:
    """Workers import the module anew."""
    for how in ("SCALE", "kept_helper.SCALE"):
        user = "import kept_helper\nfrom kept_helper import SCALE\n"
        user += f"def f(x): return x * {how}\n"
        helper = module("SCALE = 3\n", "kept_helper")
        made = module(user)
        made.SCALE = helper.SCALE = made.kept_helper.SCALE = 5
        here = name(made.f, 1)
        module("SCALE = 5\n", "kept_helper")
        if how != "SCALE":
            assert name(module(user).f, 1) != here


def test_one_of_two_classes_of_a_name_is_told_apart(module: Module) -> None:
    text = "NEW = True\nif NEW:\n    class A:\n        def f(self): return 1\n"
    text += "else:\n    class A:\n        def f(self): return 2\ndef f(x): return A().f()\n"
    assert name(module(text).f, 1) != name(module(text.replace("= True", "= False")).f, 1)


def test_data_of_a_class_counts(module: Module) -> None:
    text = "import numpy as np\nimport os\nclass A:\n    table = np.arange(int(os.environ['KEPT_N']))\n"
    text += "def f(x): return A.table\n"
    names = set()
    for number in "345":
        os.environ["KEPT_N"] = number
        names.add(name(module(text).f, 1))
    del os.environ["KEPT_N"]
    assert len(names) == 3


def test_edits_that_this_process_has_not_imported_count(module: Module) -> None:
    simulate = module(TEXT).simulate
    names = {
        call.name
        for edited in ("", "a", "b")
        for call in name_calls(RULE, simulate, [(1,)], {}, edited=edited)[0]
    }
    assert len(names) == 3


def test_functions_that_call_each_other_have_digests(module: Module) -> None:
    text = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
    before = name(module(text).even, 1)
    assert name(module(text).even, 1) == before
    assert name(module(text.replace("n != 0", "n > 0")).even, 1) != before


def test_a_global_without_content_is_named(module: Module) -> None:
    made = module("import threading\nlock = threading.Lock()\ndef f(x):\n    with lock: return x\n")
    assert "global 'kept_model.lock' is a _thread.lock" in reason(made.f, 1)
    assert "argument 'x' is a _thread.lock" in reason(
        module("def f(x): return x\n").f, threading.Lock()
    )


def test_a_package_that_only_workers_need_is_not_imported(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "kept_installed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(package.parent)
    made = module("def f(x):\n    from kept_installed.inner import g\n    return g(x)\n")
    assert name(made.f, 1) == name(made.f, 1)


def test_loggers_are_their_names(module: Module) -> None:
    text = "import logging\nlog = logging.getLogger('a')\ndef f(x): log.info(x); return x\n"
    assert name(module(text).f, 1) == name(module(text).f, 1)


def test_the_parts_of_a_name_are_listed(module: Module) -> None:
    content = Content()
    content.digest(module(TEXT).simulate)
    assert {*content.parts} == {
        f"kept_model.{each}" for each in ("SCALE", "TABLE", "Model", "helper", "simulate")
    }


# -- Calls


def test_one_call_has_one_name_however_it_is_written(module: Module) -> None:
    simulate = module(TEXT).simulate
    assert name(simulate, 1) == name(simulate, member=1) == name(simulate, 1, verbose=False)
    assert len({name(simulate, 1), name(simulate, 2), name(simulate, 1, True)}) == 3


def test_ignored_arguments_do_not_count(module: Module) -> None:
    simulate = module(TEXT).simulate
    rule = Rule("task", None, (), ("verbose",))
    assert name(simulate, 1, True, rule=rule) == name(simulate, 1, False, rule=rule)
    with pytest.raises(ValueError, match="'verbos', which is no argument of task; its arguments"):
        name_calls(Rule("task", None, (), ("verbos",)), simulate, [(1,)], {})


def test_image_and_version_count(module: Module) -> None:
    simulate = module(TEXT).simulate
    rules = [
        RULE,
        Rule("task", "gcam:7", (), ()),
        Rule("task", "gcam:8", (), ()),
        Rule("task", None, ("1",), ()),
        Rule("task", None, ("2",), ()),
    ]
    assert len({name(simulate, 1, rule=rule) for rule in rules}) == len(rules)


def test_marks_and_tasks_are_combined() -> None:
    @scalable.results.cached(version=2, ignore="quiet")
    def simulate(x: int, quiet: bool = True, loud: bool = False) -> int:
        return x

    assert simulate(3) == 3
    tasks = {"simulate": TaskRule("gcam:8", "a", ("loud",))}
    assert rule_for(simulate, "simulate", tasks, None) == Rule(
        "simulate", "gcam:8", ("a", "2"), ("loud", "quiet")
    )
    assert rule_for(simulate, None, {}, "gcam:7") == Rule("simulate", "gcam:7", ("2",), ("quiet",))
    with pytest.raises(TypeError, match="marks functions"):
        scalable.results.cached(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="cannot mark <built-in function len>"):
        scalable.results.cached(len)


def test_futures_are_named_by_what_they_are_computed_from() -> None:
    class Future:
        __module__ = "distributed.client"

    future = Future()
    calls: list[NamedCall] = []
    for known in ("a/1", "a/2", None):
        name_future = {id(future): known}
        (call,), _ = name_calls(RULE, len, [([future],)], {}, lambda each: name_future[id(each)])  # noqa: B023
        calls.append(call)
    assert calls[0].name != calls[1].name
    assert calls[2].name is None
    assert "whose result is not kept" in calls[2].reason


# -- Other processes

SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import kept_model
from scalable.results.naming import Rule, TaskRule, name_calls
from scalable.results.content import Content, digest_of
import dataclasses, datetime, decimal, fractions, pathlib, re, types, uuid, collections, enum
class Colour(enum.Enum):
    RED = 1
Shape = enum.Enum("Shape", "ROUND SQUARE")
Pair = collections.namedtuple("Pair", "a b", defaults=[3])
class Names(set): pass
@dataclasses.dataclass
class Point:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)
def local(x, *more, k=(1, 2)):
    "doc \U0001fae8"
    @staticmethod
    def inner(y: int) -> str:
        return f"{y!r:>{x}} {x + 1}"
    match x:
        case {"a": [1, *rest]} if rest: return lambda: rest
        case str() | None: return inner
    return [i for i in x if i] or 1e3
values = [
    None, 1, -2**70, 1.5, "é", b"x", [1, {"a": (2,)}], {"x", "y", "z"}, frozenset("abc"), 1j, ...,
    pathlib.Path("/a/b"), pathlib.PurePosixPath("c"), datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.date(2020, 1, 1), datetime.timedelta(1), decimal.Decimal("1.10"), fractions.Fraction(1, 3),
    re.compile("a+", re.I), uuid.UUID(int=5), collections.OrderedDict(a=1), collections.deque([1]), Colour.RED,
    Point(2), Pair(1), Pair, Shape, Shape.ROUND, Names("abc"), types.MappingProxyType({"a": 1}),
    range(3), len, kept_model.simulate, kept_model.Model(), kept_model.Model,
]
names = [each.name for each in name_calls(Rule("t", "i", ("1",), ()), local, [(1,), (2,)], {"k": {1, 2}})[0]]
print(json.dumps([digest_of(v) for v in values] + names))
"""


def pythons() -> list[str]:
    """Return other Pythons that are supported and installed here."""
    wanted = {"3.11", "3.12", "3.13"} - {"{}.{}".format(*sys.version_info)}
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for version in sorted(wanted):
        candidates = [
            *sorted(root.glob(f"{version}*/bin/python")),
            shutil.which(f"python{version}"),
        ]
        found += [str(each) for each in candidates if each][:1]
    return found


def names_elsewhere(python: str, directory: Path, seed: int) -> list[str]:
    directory.mkdir()
    (directory / "kept_model.py").write_text(TEXT + "class Empty: pass\n")
    (directory / "main.py").write_text(SCRIPT)
    core = Path(scalable.results.__file__).parents[2]
    done = subprocess.run(
        [python, str(directory / "main.py"), str(directory), str(core)],
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout)
    return names


def test_names_are_the_same_in_another_process_and_directory(tmp_path: Path) -> None:
    one = names_elsewhere(sys.executable, tmp_path / "a", 1)
    assert one == names_elsewhere(sys.executable, tmp_path / "b", 2)


def test_names_are_the_same_in_another_python(tmp_path: Path) -> None:
    others = pythons()
    if not others:
        pytest.skip("no other Python is installed")
    here = names_elsewhere(sys.executable, tmp_path / "here", 1)
    for number, python in enumerate(others):
        assert names_elsewhere(python, tmp_path / str(number), 2) == here, python


@pytest.mark.parametrize("args", [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize(
    "kwargs", [{}, {"x": 7}, {"y": 7}, {"z": 7}, {"other": 7}, {"x": 7, "z": 8}]
)
def test_a_call_is_bound_the_same_by_the_short_way(
    args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    functions: list[Any] = [
        lambda x, y=2, *, z=3: None,
        lambda x, *, z: None,
        lambda x, y, /, z=3: None,
        lambda x, *more, z=3: None,
        lambda x, **others: None,
        lambda: None,
    ]
    for function in functions:
        signature = inspect.signature(function)
        together, alone = (_Arguments(Content(), signature, kwargs, ("y",)) for _ in range(2))
        alone._plain[len(args)] = None  # as for calls that have nothing in common
        (one, *shown), (other, *expected) = together.digest(args), alone.digest(args)
        assert one == other
        assert dict(zip(*shown, strict=True)) == dict(zip(*expected, strict=True))
