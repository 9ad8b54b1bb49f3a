from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.limits import MAX_BYTES
from scalable.manifest.errors import ManifestError, ManifestParseError, ManifestSchemaError
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.parser import load_manifest, load_targets, parse_manifest
from scalable.manifest.schema import ManifestModel

MINIMAL = "version: 1\nproject: {name: x}\n"


# From a file.


def test_a_file_is_read_and_positions_name_it(tmp_path: Path) -> None:
    path = tmp_path / "scalable.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode() + b"components: {a: {cpus: 2}}\n")
    manifest = load_manifest(path)
    assert manifest.source == str(path)
    assert manifest.position("components.a.cpus") == (str(path), 3, 18)
    assert load_manifest(str(path)) == manifest


def test_the_environment_of_the_process_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scalable.yaml"
    path.write_text("version: 1\nproject: {name: '${MANIFEST_TEST_NAME}'}\n")
    monkeypatch.setenv("MANIFEST_TEST_NAME", "from outside")
    assert load_manifest(path).project.name == "from outside"
    assert load_manifest(path, env={"MANIFEST_TEST_NAME": "given"}).project.name == "given"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.yaml", "there is no such file; `scalable init` writes one to start from"),
        (".", "is a directory; name the file in it, such as scalable.yaml"),
        ("file/scalable.yaml", "cannot be read: Not a directory"),
        ("pipe", "cannot be read: it is a pipe to which no program writes"),
        ("x" * 1000, "cannot be read: File name too long"),
        ("a\0b", "is not a valid file name: embedded null byte"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    path = os.path.join(tmp_path, name)  # noqa: PTH118 - a Path would refuse some of these itself
    with pytest.raises(ManifestParseError) as caught:
        load_manifest(path)
    assert str(caught.value) == f"{path} E_FILE: {says}".replace("\0", r"\x00")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "scalable.yaml"
    path.write_text(MINIMAL)
    path.chmod(0)
    with pytest.raises(ManifestParseError, match="cannot be read: Permission denied"):
        load_manifest(path)


def test_a_file_without_end_is_too_large() -> None:
    with pytest.raises(ManifestParseError, match=f"larger than {MAX_BYTES // 10**6} MB"):
        load_manifest("/dev/zero")


# What is right.


def test_the_smallest_manifest() -> None:
    manifest = parse_manifest(MINIMAL)
    assert (manifest.version, manifest.project.name) == (1, "x")
    assert manifest.targets == manifest.components == manifest.tasks == manifest.overlays == {}
    assert manifest.raw == {"version": 1, "project": {"name": "x"}}
    assert (manifest.source, manifest.selected_target) == ("<manifest>", None)


def test_sections_may_be_empty_and_keys_with_x_are_free() -> None:
    manifest = parse_manifest(
        MINIMAL + "targets:\ncomponents: {a: {x-note: 1}}\ntasks: {}\nx-shared: ['${UNSET}']\n",
        env={},
    )
    assert manifest.targets == {}
    assert manifest.components["a"].model_fields_set == {"name"}
    assert manifest.raw["x-shared"] == ["${UNSET}"]


def test_names_of_entries_may_begin_with_x() -> None:
    manifest = parse_manifest(MINIMAL + "components: {x-ray: {}}\n")
    assert [*manifest.components] == ["x-ray"]


def test_data_and_text_give_the_same() -> None:
    text = (
        MINIMAL + "targets: {t: {provider: p, a: [1, {b: null}]}}\ncomponents: {c: {memory: 8G}}\n"
    )
    from_text = parse_manifest(text, source="m")
    from_data = parse_manifest(yaml.safe_load(text), source="m")
    assert from_data == from_text
    assert from_data.position("targets.t") is None


def test_the_order_of_entries_stays() -> None:
    text = MINIMAL + "components: {b: {}, a: {}, c: {}}\n"
    assert [*parse_manifest(text).components] == ["b", "a", "c"]


def test_provider_options_may_have_any_key() -> None:
    text = MINIMAL + "targets: {t: {provider: p, name: n, options: o, version: 2, x-y: z}}\n"
    target = parse_manifest(text).targets["t"]
    assert target.name == "t"
    assert target.options == {"name": "n", "options": "o", "version": 2}


# What is wrong.


@pytest.mark.parametrize(
    ("rest", "issue"),
    [
        ("target: {}", "3:1 E_UNKNOWN_KEY target: unknown key (did you mean 'targets'?)"),
        (
            "targets: []",
            "3:1 E_BAD_VALUE targets: must be a mapping; write each entry under its name, such as `local",
        ),
        ("targets: {t: }", "3:11 E_MISSING_KEY targets.t.provider: this key is required"),
        ("targets: {t: {}}", "3:11 E_MISSING_KEY targets.t.provider: this key is required"),
        ("targets: {t: {provider: ''}}", "3:15 E_BAD_VALUE targets.t.provider: must be text of 1"),
        ("targets: {t: {provider: [a]}}", "3:15 E_BAD_VALUE targets.t.provider: must be text, not"),
        ("components: {a b: {}}", '3:14 E_BAD_NAME components."a b": a name begins with a letter'),
        ("components: {1a: {}}", "3:14 E_BAD_NAME components.1a: a name begins with a letter"),
        (
            f"targets: {{{'a' * 41}: {{provider: p}}}}",
            f"3:11 E_BAD_NAME targets.{'a' * 41}: a name",
        ),
        ("overlays: {a.b: {}}", '3:12 E_BAD_NAME overlays."a.b": a name begins with a letter'),
        (
            "components: [{name: b}]",
            "3:1 E_BAD_VALUE components: must be a mapping; write each entry under its name, such as `b: {cpus: 1}`",
        ),
        (
            "components: {a: img}",
            "3:14 E_BAD_VALUE components.a: must be a mapping; write `a: {image: img}`",
        ),
        ("tasks: {t: a}", "3:9 E_BAD_VALUE tasks.t: must be a mapping; write `t: {component: a}`"),
        (
            "targets: {t: local}",
            "3:11 E_BAD_VALUE targets.t: must be a mapping; write `t: {provider: local}`",
        ),
        (
            "components: {a: {component: b}}",
            "3:18 E_UNKNOWN_KEY components.a.component: unknown key: it is a key of a task",
        ),
        ("components: {a: {name: b}}", "3:18 E_UNKNOWN_KEY components.a.name: unknown key"),
        ("components: {a: {cpus: 0}}", "3:18 E_BAD_VALUE components.a.cpus: must be at least 1"),
        ("components: {a: {gpus: -1}}", "3:18 E_BAD_VALUE components.a.gpus: must be at least 0"),
        ("components: {a: {slots: x}}", "3:18 E_BAD_VALUE components.a.slots: must be a whole"),
        (
            "components: {a: {memory: 8Q}}",
            "3:18 E_BAD_VALUE components.a.memory: must be an amount",
        ),
        ("components: {a: {runtime: x}}", "3:18 E_BAD_VALUE components.a.runtime: must be 'app"),
        (
            "components: {a: {env: {A B: c}}}",
            '3:24 E_BAD_VALUE components.a.env."A B": must be text that matches ^[A-Za-z_]',
        ),
        (
            "components: {a: {env: {A: true}}}",
            "3:24 E_BAD_VALUE components.a.env.A: must be text, not true; write it in quotes",
        ),
        (
            "components: {a: {mounts: {/data: data}}}",
            '3:27 E_BAD_VALUE components.a.mounts."/data": must be an absolute path inside the '
            "container, such as /data (got 'data')",
        ),
        (
            "components: {a: {tags: [[b]]}}",
            "3:18 E_BAD_VALUE components.a.tags: must be a list of text, or a mapping",
        ),
        (
            "tasks: {t: {component: a, cash: 1}}\ncomponents: {a: {}}",
            "3:27 E_UNKNOWN_KEY tasks.t.cash: unknown key",
        ),
    ],
)
def test_sections(rest: str, issue: str, problems: Any) -> None:
    (line,) = problems(f"{MINIMAL}{rest}\n")
    assert line.startswith(issue)


@pytest.mark.parametrize(
    ("document", "issue"),
    [
        (
            "project: {name: x}",
            "1:1 E_MISSING_KEY version: this key is required: write `version: 1`",
        ),
        ("version: 2\nproject: {name: x}", "1:1 E_BAD_VERSION version: must be 1, the version"),
        ("version: '1'\nproject: {name: x}", "1:1 E_BAD_VERSION version: must be 1, the version"),
        ("version: true\nproject: {name: x}", "1:1 E_BAD_VERSION version: must be 1, the version"),
        ("version: 1", "1:1 E_MISSING_KEY project: this key is required"),
        ("version: 1\nproject: x", "2:1 E_BAD_VALUE project: must be a mapping"),
        ("version: 1\nproject: {}", "2:1 E_MISSING_KEY project.name: this key is required"),
        ("version: 1\nproject: {name: ''}", "2:11 E_BAD_VALUE project.name: must be text of 1"),
        ("version: 1\nproject: {name: x, nam: y}", "2:20 E_UNKNOWN_KEY project.nam: unknown key"),
    ],
)
def test_head(document: str, issue: str, problems: Any) -> None:
    (line,) = problems(document)
    assert line.startswith(issue)


def test_copies_of_results_have_an_absolute_path(problems: Any) -> None:
    text = "version: 1\nproject: {name: x, local_cache: copies}\ncomponents: {c: {}}\n"
    (line,) = problems(text)
    assert line.startswith(
        "2:20 E_BAD_VALUE project.local_cache: must be absolute, or begin with ~"
    )


@pytest.mark.parametrize(
    ("outputs", "issue"),
    [
        ("[a]", "E_BAD_VALUE tasks.t.outputs: must be a mapping of names to paths"),
        ("{a: 'x{m.n}'}", "E_BAD_VALUE tasks.t.outputs.a: has braces that are not those of an"),
        ("{a: 'x{m'}", "E_BAD_VALUE tasks.t.outputs.a: has braces that are not those of an"),
        ("{a: ../x}", "E_BAD_VALUE tasks.t.outputs.a: must not contain '..'"),
        ("{a: ''}", "E_BAD_VALUE tasks.t.outputs.a: must be text of 1 or more characters"),
        ("{a b: x}", "E_BAD_"),
    ],
)
def test_outputs_are_paths_with_the_names_of_arguments(
    outputs: str, issue: str, problems: Any
) -> None:
    head = "version: 1\nproject: {name: x}\ncomponents: {c: {}}\n"
    (line,) = problems(f"{head}tasks: {{t: {{component: c, outputs: {outputs}}}}}\n")
    assert line.startswith("4:")
    assert issue in line
    task = parse_manifest(
        f"{head}tasks: {{t: {{component: c, outputs: {{a: 'x/{{m:03d}}.nc'}}}}}}\n"
    )
    assert task.tasks["t"].outputs == {"a": "x/{m:03d}.nc"}


def test_asking_for_nothing_to_be_kept_is_fine() -> None:
    text = """
version: 1
project: {name: x, default_storage: null, local_cache: }
components: {c: {}}
tasks: {t: {component: c, cache: false, outputs: []}}
"""
    assert parse_manifest(text).tasks["t"].cache is False


def test_every_problem_is_reported_at_once(problems: Any) -> None:
    text = """
        version: 1
        project: {nam: x}
        targets:
          hpc: {provider: slurm, account: "${ACCOUNT", overlay: bigg, workers: {gcan: 1}}
        components:
          gcam: {cpus: two, env: {A: "${UNSET}"}}
          gcam: {cpus: 1}
        tasks:
          run: {component: gcan}
        overlays:
          big: {components: {gcam: {cpu: 4}}}
        """
    assert [line.partition(": ")[0] for line in problems(text, target_name="hpc")] == [
        "3:1 E_MISSING_KEY project.name",
        "3:11 E_UNKNOWN_KEY project.nam",
        "5:26 E_BAD_VARIABLE targets.hpc.account",
        "5:48 E_UNKNOWN_OVERLAY targets.hpc.overlay",
        "5:73 E_UNKNOWN_TAG targets.hpc.workers.gcan",
        "7:10 E_BAD_VALUE components.gcam.cpus",
        "7:27 E_UNSET_VARIABLE components.gcam.env.A",
        "8:3 E_DUPLICATE_KEY components.gcam",
        "10:9 E_UNKNOWN_COMPONENT tasks.run.component",
        "12:29 E_UNKNOWN_KEY overlays.big.components.gcam.cpu",
    ]


def test_what_yaml_forbids_is_a_parse_error_and_all_else_a_schema_error() -> None:
    with pytest.raises(ManifestParseError):
        parse_manifest("version: 1\nversion: 2\n")
    with pytest.raises(ManifestSchemaError):
        parse_manifest("version: 2\n")


@pytest.mark.parametrize(
    "document",
    [
        f"{'k' * 10**6}: 1",
        f"a: &{'k' * 10**6} 1\nb: *{'l' * 10**6}",
        f"version: {'9' * 10**6}",
        f"version: 2\nproject: {{name: x}}\ntasks: {{t: {{component: {'c' * 10**6}}}}}",
        f"version: 1\nproject: {{name: x}}\ncomponents: {{c: {{runtime: {'c' * 10**6}}}}}",
        {"k" * 10**6: 1},
    ],
)
def test_endless_data_is_reported_briefly(document: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(document)
    assert max(len(line) for line in str(caught.value).splitlines()) < 3000


def test_a_value_that_could_not_be_read_is_reported_once(problems: Any) -> None:
    assert len(problems(MINIMAL + "components: {a: {cpus: .inf}}\n")) == 1


# Which variables have to be set.

VARIABLES = """\
version: 1
project: {name: x}
targets:
  one: {provider: p, account: "${ONE}"}
  two: {provider: p, account: "${TWO}", zone: "${BROKEN"}
components:
  a: {image: "${IMAGE:-default}"}
overlays:
  o: {components: {a: {image: "${OVERLAY}"}}}
x-free: ${FREE}
"""


def test_a_variable_that_only_another_target_needs_is_a_warning() -> None:
    text = VARIABLES.replace("${BROKEN", "${BROKEN}")
    manifest = parse_manifest(text, env={"ONE": "1"}, target_name="one", source="m")
    assert manifest.targets["one"].options["account"] == "1"
    assert manifest.targets["two"].options["account"] == "${TWO}"
    assert [str(issue) for issue in manifest.warnings] == [
        f"m:5:{column} W_UNSET_VARIABLE targets.two.{key}: {name} is not set in the environment; "
        f"set it, or write ${{{name}:-default}}"
        for column, key, name in ((22, "account", "TWO"), (41, "zone", "BROKEN"))
    ]


def test_without_a_target_no_target_needs_its_variables() -> None:
    manifest = parse_manifest(VARIABLES.replace("${BROKEN", "x"), env={})
    assert [issue.code for issue in manifest.warnings] == ["W_UNSET_VARIABLE"] * 2


def test_an_invalid_variable_reference_is_an_error_everywhere(problems: Any) -> None:
    assert [line.split()[1] for line in problems(VARIABLES, {"ONE": "1"}, target_name="one")] == [
        "W_UNSET_VARIABLE",
        "E_BAD_VARIABLE",
    ][1:]


def test_keys_of_the_user_are_left_alone_wherever_they_may_be() -> None:
    text = """
version: 1
project: {name: x, x-note: "${UNSET}"}
targets: {t: {provider: p, x-note: {why: ["${BROKEN"]}}}
components: {x-ray: {image: "${IMAGE}", env: {x-note: "${IMAGE}"}, x-note: "${UNSET}"}}
tasks: {x-t: {component: "${TAG}", x-note: "${UNSET}"}}
"""
    manifest = parse_manifest(text, env={"IMAGE": "i", "TAG": "x-ray"}, target_name="t")
    component = manifest.components["x-ray"]
    assert (component.image, component.env, manifest.warnings) == ("i", {"x-note": "i"}, ())
    assert manifest.tasks["x-t"].component == "x-ray"


def test_an_overlay_is_expanded_where_it_is_merged(problems: Any) -> None:
    text = VARIABLES.replace("${BROKEN", "x")
    env = {"ONE": "1", "OVERLAY": "large"}
    assert parse_manifest(text, env=env, overlay_name="o").components["a"].image == "large"
    (line,) = problems(text, {"ONE": "1"}, overlay_name="o")
    assert line.startswith("9:24 E_UNSET_VARIABLE components.a.image: OVERLAY is not set")


# Targets and overlays.

OVERLAYS = """\
version: 1
project: {name: x}
targets:
  laptop: {provider: p}
  hpc: {provider: p, overlay: "${SIZE:-big}", queue: short}
components:
  gcam: {cpus: 1, env: {A: a, B: b}, tags: [x, y]}
tasks:
  run: {component: gcam}
overlays:
  big:
    components:
      gcam: {cpus: 16, env: {B: big, C: c}, tags: [z]}
      helper: {new: true}
    targets:
      hpc: {queue: long}
  null-memory: {components: {gcam: {memory: null, image: }}}
"""


def test_the_overlay_of_the_selected_target_is_merged() -> None:
    plain = parse_manifest(OVERLAYS, env={}, target_name="laptop")
    large = parse_manifest(OVERLAYS, env={}, target_name="hpc", source="m")
    assert plain.components["gcam"].cpus == 1
    assert large.components["gcam"].cpus == 16
    assert large.components["gcam"].env == {"A": "a", "B": "big", "C": "c"}
    assert large.components["gcam"].tags == {"z": ""}
    assert [*large.components] == ["gcam", "helper"]
    assert large.targets["hpc"].options == {"queue": "long"}
    assert large.raw["components"]["gcam"]["cpus"] == 16
    assert large.selected_target == "hpc"
    assert large.position("components.gcam.cpus") == ("m", 13, 14)
    assert large.position("components.gcam.env.A") == ("m", 7, 25)


def test_the_overlay_that_the_caller_names_takes_its_place() -> None:
    manifest = parse_manifest(OVERLAYS, env={}, target_name="hpc", overlay_name="null-memory")
    assert manifest.components["gcam"].cpus == 1
    assert manifest.components["gcam"].memory is None
    assert parse_manifest(OVERLAYS, env={}, overlay_name="big").components["gcam"].cpus == 16


@pytest.mark.parametrize(
    ("names", "issue"),
    [
        (
            {"target_name": "hcp"},
            "3:1 E_UNKNOWN_TARGET targets: there is no target 'hcp' (did you mean 'hpc'?); "
            "the targets are: laptop, hpc",
        ),
        (
            {"overlay_name": "bigg"},
            "10:1 E_UNKNOWN_OVERLAY overlays: there is no overlay 'bigg' (did you mean 'big'?); "
            "the overlays are: big, null-memory",
        ),
    ],
)
def test_what_was_asked_for_has_to_be_there(names: Any, issue: str, problems: Any) -> None:
    assert problems(OVERLAYS, **names) == [issue]


def test_an_overlay_from_the_environment_is_not_shown(problems: Any) -> None:
    (line,) = problems(OVERLAYS, {"SIZE": "s3cret"}, target_name="hpc")
    assert line.startswith(
        "5:22 E_UNKNOWN_OVERLAY targets.hpc.overlay: there is no overlay '${SIZE:-big}'"
    )


def test_a_target_can_be_chosen_once_the_document_is_read() -> None:
    def choose(providers: Any) -> str:
        assert providers == {"laptop": "p", "hpc": "p"}
        return "hpc"

    assert parse_manifest(OVERLAYS, env={}, target_name=choose).components["gcam"].cpus == 16


ENTRIES = """\
components: {a: {}}
tasks: {t: {component: a}}
targets: {t: {provider: p}}
"""


@pytest.mark.parametrize(
    ("overlay", "issue"),
    [
        ("{version: 1}", "E_UNKNOWN_KEY overlays.o.version: unknown key"),
        ("{overlays: {}}", "E_UNKNOWN_KEY overlays.o.overlays: unknown key"),
        ("[]", "E_BAD_VALUE overlays.o: must be a mapping"),
        ("{components: {a: {cpu: 1}}}", "E_UNKNOWN_KEY overlays.o.components.a.cpu: unknown key"),
        ("{components: {a: {cpus: x}}}", "E_BAD_VALUE overlays.o.components.a.cpus: must be"),
        ("{components: {a b: {}}}", 'E_BAD_NAME overlays.o.components."a b": a name'),
        ("{components: []}", "E_BAD_VALUE overlays.o.components: must be a mapping"),
        ("{tasks: {t: {outputs: [a]}}}", "E_BAD_VALUE overlays.o.tasks.t.outputs: must be"),
        ("{project: 5}", "E_BAD_VALUE overlays.o.project: must be a mapping"),
        ("{project: {nam: x}}", "E_UNKNOWN_KEY overlays.o.project.nam: unknown key"),
        ("{targets: {t: {overlay: [x]}}}", "E_BAD_VALUE overlays.o.targets.t.overlay: must be"),
    ],
)
def test_an_overlay_is_checked_although_nothing_selects_it(
    overlay: str, issue: str, problems: Any
) -> None:
    (line,) = problems(f"{MINIMAL}{ENTRIES}overlays:\n  o: {overlay}\n")
    assert line.partition(" ")[2].startswith(issue)


@pytest.mark.parametrize(
    ("overlay", "issue"),
    [
        (
            "components: {gcma: {}}",
            "E_UNKNOWN_COMPONENT overlays.o.components.gcma: there is no component 'gcma' to change "
            "(did you mean 'gcam'?)",
        ),
        (
            "tasks: {runn: {}}",
            "E_UNKNOWN_TASK overlays.o.tasks.runn: there is no task 'runn' to change (did you mean 'run'?)",
        ),
        (
            "targets: {moon: {}}",
            "E_UNKNOWN_TARGET overlays.o.targets.moon: there is no target 'moon' to change; write",
        ),
        (
            "components: {gcam: {new: true}}",
            "E_BAD_VALUE overlays.o.components.gcam.new: there is 'gcam' already; remove `new`",
        ),
        (
            "components: {other: {new: maybe}}",
            "E_BAD_VALUE overlays.o.components.other.new: must be true, or left out",
        ),
    ],
)
@pytest.mark.parametrize("merged", [None, "o"])
def test_an_overlay_changes_what_there_is(
    overlay: str, issue: str, merged: str | None, problems: Any
) -> None:
    base = (
        "components: {gcam: {}}\ntasks: {run: {component: gcam}}\ntargets: {hpc: {provider: p}}\n"
    )
    found = problems(f"{MINIMAL}{base}overlays:\n  o: {{{overlay}}}\n", overlay_name=merged)
    assert any(line.partition(" ")[2].startswith(issue) for line in found)


def test_an_overlay_adds_what_it_says_is_new() -> None:
    overlay = "{o: {components: {b: {new: true, cpus: 3}}, tasks: {t: {new: true, component: b}}}}"
    manifest = parse_manifest(f"{MINIMAL}overlays: {overlay}\n", overlay_name="o", env={})
    assert manifest.components["b"].cpus == 3
    assert "new" not in manifest.raw["components"]["b"]


def test_lines_of_tabs_and_keys_with_nothing_behind_them_have_their_plain_meaning() -> None:
    text = "components:\n  a:\n    cpus: 2\n\t\n \t # why\n    env:\n    tags:\n    memory: 16e9\n  b:\n"
    components = parse_manifest(MINIMAL + text, env={}).components
    assert (components["a"].memory, components["a"].env, components["b"].cpus) == (
        16 * 10**9,
        {},
        1,
    )


def test_an_overlay_needs_nothing_and_its_variables_are_not_known_yet() -> None:
    overlay = "{components: {a: {cpus: '${N}', x-a: 1}}, tasks: {t: {}}, targets: {t: {}}, x-b: 2}"
    manifest = parse_manifest(
        f"{MINIMAL}{ENTRIES}overlays: {{o: {overlay}}}\n",
        env={},
    )
    assert manifest.overlays["o"]["components"]["a"]["cpus"] == "${N}"


def test_a_problem_in_the_merged_overlay_is_reported_once(problems: Any) -> None:
    text = f"{MINIMAL}components: {{a: {{}}}}\noverlays: {{o: {{components: {{a: {{cpu: 1}}}}}}}}\n"
    assert problems(text, overlay_name="o") == [
        "4:33 E_UNKNOWN_KEY components.a.cpu: unknown key (did you mean 'cpus'?)"
    ]


# Whatever comes.

words = """
version project targets components tasks overlays name provider overlay component cpus memory env mounts tags workers
cache t x-a
"""
keys = st.sampled_from(words.split()) | st.text(max_size=3)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["${A}", "${B:-1}", "8G", "${", 1, "x"])
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=1)
    ),
    max_leaves=20,
)
sections = st.fixed_dictionaries(
    {},
    optional={
        "version": st.just(1) | values,
        "project": st.just({"name": "x"}) | values,
        **{
            section: st.dictionaries(keys, st.dictionaries(keys, values, max_size=4), max_size=3)
            | values
            for section in ("targets", "components", "tasks", "overlays")
        },
    },
)


def parse(document: Any, **names: str) -> None:
    """Parse, and allow for nothing but the errors that are promised."""
    issues: tuple[ValidationIssue, ...] = ()
    try:
        issues = parse_manifest(document, env={"A": "1", "B": "\udcff"}, **names).warnings
    except ManifestError as error:
        issues = error.issues or (ValidationIssue("", "an error without a problem", ""),)
    for issue in issues:
        assert str(issue).isprintable()
        assert issue.code


@given(st.text() | st.binary())
def test_no_text_breaks_the_parser(document: str | bytes) -> None:
    parse(document)


@given(st.text(), st.integers(0, 200))
def test_no_damage_breaks_the_parser(damage: str, at: int) -> None:
    parse(OVERLAYS[:at] + damage + OVERLAYS[at + len(damage) :])


@given(sections | values, st.sampled_from([{}, {"target_name": "t"}, {"overlay_name": "t"}]))
def test_no_data_breaks_the_parser(document: Any, names: dict[str, str]) -> None:
    parse(document, **names)


@given(sections)
def test_a_manifest_reads_back_from_its_own_data(document: dict[str, Any]) -> None:
    try:
        manifest = parse_manifest(document, env={"A": "1", "B": "2"})
    except ManifestError:
        return
    again = parse_manifest(manifest.raw, env={"A": "1", "B": "2"})
    assert again == manifest


BRACKETS = """
import sys
from scalable.manifest.errors import ManifestParseError
from scalable.manifest.parser import parse_manifest
text = sys.argv[1]
for document in text, "a: " + text, text.replace("[", "{a: "), text.replace("[", "- "):
    try:
        parse_manifest(document)
    except ManifestParseError as error:
        print(error.issues[0].code)
"""


def test_fifty_thousand_brackets_do_not_end_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BRACKETS, "[" * 50_000],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == ["E_TOO_DEEP"] * 4


def test_the_parser_imports_neither_dask_nor_plugins() -> None:
    code = (
        "import sys, scalable.manifest.parser; "
        "print(*{name.partition('.')[0] for name in sys.modules} & "
        "{'dask', 'distributed', 'click', 'rich', 'cloudpickle', 'tornado'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_each_target_can_be_loaded_alone(tmp_path: Path) -> None:
    """Whatever is wrong with the others, and with components."""
    path = tmp_path / "scalable.yaml"
    path.write_text(
        """\
version: 1
project: {name: test}
targets:
  good: {provider: local, overlay: more, max_workers: 1}
  bare: {n_workers: 1}
  unset: {provider: local, account: "${NOT_SET}"}
  lost: {provider: local, overlay: less}
components: {gcam: {cpu: 1, env: {TOKEN: "${NOT_SET}"}}}
tasks: {simulate: {component: nothing}}
overlays:
  more: {targets: {good: {max_workers: "${N}"}}, components: {gcam: {wrong: 1}}}
"""
    )
    found = load_targets(path, env={"N": "7"})
    assert list(found) == ["good", "bare", "unset", "lost"]
    good = found["good"]
    assert isinstance(good, ManifestModel)
    assert good.targets["good"].options == {"max_workers": "7"}
    assert list(good.targets) == ["good"]
    assert not good.components
    codes = {
        name: [issue.code for issue in error.issues]
        for name, error in found.items()
        if isinstance(error, ManifestError)
    }
    assert codes == {
        "bare": ["E_MISSING_KEY"],
        "unset": ["E_UNSET_VARIABLE"],
        "lost": ["E_UNKNOWN_OVERLAY"],
    }


def test_targets_of_a_file_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestParseError, match="there is no such file"):
        load_targets(tmp_path / "scalable.yaml")


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("env: [OMP_NUM_THREADS=4]", "write each entry as `OMP_NUM_THREADS: 4`"),
        ("mounts: ['/data:/in']", "write each entry as `/data: /in`"),
        ("env: [alone]", "must be a mapping, not a list"),
    ],
)
def test_a_list_in_place_of_a_mapping_says_what_to_write(written: str, hint: str) -> None:
    text = (
        "version: 1\nproject: {name: test}\ntargets: {here: {provider: local}}\n"
        f"components:\n  gcam:\n    {written}\n"
    )
    with pytest.raises(ManifestSchemaError) as caught:
        parse_manifest(text)
    assert caught.value.issues[0].message.endswith(hint)
