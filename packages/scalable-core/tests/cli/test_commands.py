"""Commands that only read manifests."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.cli.init import write_targets
from scalable.cli.plan import describe
from scalable.planning import Plan
from scalable.providers.base import ResourceRequest, ScalePlan, current_owner
from scalable.results.store.storage import Store

if TYPE_CHECKING:
    from conftest import Install

Scalable = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(demo: None, project: Path) -> Callable[..., Result]:
    def cli(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="scalable")

    return cli


Cli = Callable[..., Result]


def test_without_arguments_it_is_help(cli: Cli) -> None:
    result = cli()

    assert result.exit_code == 2
    assert "Usage: scalable" in result.stderr
    assert cli("--help").exit_code == 0
    assert "scalable, version 2" in cli("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explode"], "error: No such command 'explode'"),
        (["--bogus"], "error: No such option"),
        (["validate", "--bogus"], "error: No such option"),
        (["validate", "a.yaml", "b.yaml"], "error: Got unexpected extra argument (b.yaml)"),
        (["run"], "error: Missing option '-w' / '--workflow'"),
        (["run", "-w", "gone.py"], "error: Invalid value for '-w' / '--workflow': File 'gone.py'"),
        (
            ["run", "-w", "."],
            "error: Invalid value for '-w' / '--workflow': File '.' is a directory",
        ),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli(*arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1
    assert "--help'" in result.stderr
    assert result.stdout == ""


def test_as_a_subcommand_of_dask_it_behaves_the_same(
    project: Path, environment: dict[str, str]
) -> None:
    def dask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dask", "scalable", *arguments],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    bad, wrong = dask("validate", "gone.yaml"), dask("validate", "--bogus")

    assert (bad.returncode, wrong.returncode) == (2, 2)
    assert bad.stderr.startswith("gone.yaml: error: there is no such file")
    assert wrong.stderr.startswith("error: No such option")


# -- validate


def test_a_valid_manifest_is_summed_up(cli: Cli) -> None:
    result = cli("validate")

    assert result.exit_code == 0
    assert result.stdout == (
        "scalable.yaml is valid: 1 target, 2 components, 1 task; target demo (demo)\n"
    )
    assert result.stderr == ""


def test_every_problem_is_listed_with_its_place(cli: Cli, project: Path) -> None:
    (project / "scalable.yaml").write_text(
        "version: 1\n"
        "project: {name: test}\n"
        "targets:\n"
        "  demo: {provider: demo}\n"
        "components:\n"
        "  fair: {cpus: many, memroy: 2G}\n"
        "tasks:\n"
        "  simulate: {component: fiar}\n"
    )

    result = cli("validate")

    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.split(": error: ")[0] for line in lines] == [
        "scalable.yaml:6:10",
        "scalable.yaml:6:22",
        "scalable.yaml:8:14",
    ]
    assert "components.fair.memroy" in lines[1]
    assert "did you mean 'memory'?" in lines[1]
    assert lines[2].endswith("[E_UNKNOWN_COMPONENT]")
    assert result.stdout == ""


def test_problems_are_json_too(cli: Cli, project: Path) -> None:
    (project / "scalable.yaml").write_text("version: 2\n")

    result = cli("validate", "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert document["ok"] is False
    assert {issue["code"] for issue in document["issues"]} == {"E_BAD_VERSION", "E_MISSING_KEY"}
    assert document["issues"][0]["line"] == 1


@pytest.mark.parametrize("task", ["..", "../other", "/", "t/../../other", "", "."])
def test_no_name_leads_out_of_a_store(cli: Cli, tmp_path: Path, task: str) -> None:
    for name in ("mine", "other"):
        Store(str(tmp_path / name)).open(current_owner(), create=True)
    Store(str(tmp_path / "other")).write_result("t/v/a", {}, 1, alone=True)
    for command in ("list", "verify"):
        result = cli("results", command, task, "--store", str(tmp_path / "mine"))
        assert result.exit_code == 2, result.stdout
        assert f"{task!r} is not the name of a task" in result.stderr


@pytest.mark.parametrize("where", ["results", "runs"])
def test_a_home_that_is_not_known_is_named(
    cli: Cli, project: Path, demo: None, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = "~no-such-user/data"
    text = (project / "scalable.yaml").read_text()
    if where == "results":
        text = text.replace("project: {", f'project: {{results: "{path}", ')
    else:
        monkeypatch.setenv("SCALABLE_RUNS_DIR", path)
    (project / "scalable.yaml").write_text(text)

    result = cli(*{"results": ["results", "list"], "runs": ["runs"]}[where])

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: the home directory of {path} is not known: there is no user 'no-such-user'; write the whole path\n"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["runs", "show", "nope"], "there are no runs in .scalable/runs"),
        (["report"], "there are no runs in .scalable/runs"),
        (["logs", "nope"], "there are no runs in .scalable/runs"),
        (["resume", "nope"], "there are no runs in .scalable/runs"),
        (["init"], "scalable.yaml exists, and nothing is overwritten"),
        (["run", "-w", "bad.py"], "SyntaxError"),
        (["run", "-w", "tag.py"], "tag.py:3: no worker group has the tag 'nobody'"),
        (["run", "-w", "target.py"], "elsewhere"),
        (["run", "-w", "fine.py", "--plan", "nope.json"], "nope.json: No such file"),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, list) else "",
)
def test_each_failure_is_json_too(
    cli: Cli, project: Path, demo: None, command: list[str], said: str
) -> None:
    session = "from scalable.session import ScalableSession\n"
    scripts = {
        "bad": "1 +",
        "tag": f"{session}with ScalableSession.from_yaml() as c:\n    c.submit(abs, tag='nobody')",
        "target": f"{session}ScalableSession.from_yaml(target='elsewhere')",
        "fine": "",
    }
    for name, text in scripts.items():
        (project / f"{name}.py").write_text(text)

    result = cli(*command, "--json")

    document = json.loads(result.stdout)
    assert result.exit_code != 0
    assert document["ok"] is False
    assert said in document["error"]["message"]
    plain = cli(*command)
    assert (plain.exit_code, plain.stdout) == (result.exit_code, "")
    assert plain.stderr == result.stderr


def test_a_name_that_refers_to_nothing_hides_no_option(cli: Cli, project: Path) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(
        text.replace("n_workers: 1", "prize: 1").replace("component: fair", "component: fare")
    )

    result = cli("validate", "--json")

    assert {issue["path"] for issue in json.loads(result.stdout)["issues"]} == {
        "targets.demo.prize",
        "tasks.simulate.component",
    }


@pytest.mark.parametrize(
    ("selected", "also"),
    [
        ("broken", {"targets.broken.provider"}),
        ("demo", {"targets.demo.account", "targets.demo.prize", "targets.demo.price"}),
        ("unset", {"targets.unset.provider", "targets.demo.prize", "targets.demo.price"}),
    ],
)
def test_a_component_that_is_wrong_hides_no_option(
    cli: Cli, project: Path, selected: str, also: set[str]
) -> None:
    (project / "scalable.yaml").write_text(
        "version: 1\n"
        "project: {name: test}\n"
        "targets:\n"
        '  demo: {provider: demo, prize: 1, price: much, account: "${DEMO_UNSET}"}\n'
        "  broken: {provider: dask}\n"
        "  unset: {provider: '${DEMO_UNSET}'}\n"
        "components:\n"
        "  fair: {cpus: many}\n"
    )

    issues = json.loads(cli("validate", "--json", "-t", selected).stdout)["issues"]
    paths = [issue["path"] for issue in issues]

    assert {*paths} >= {"components.fair.cpus"} | also
    assert len(paths) == len({*paths}), "each is reported once"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
def test_what_cannot_be_written_is_a_one_line_error(
    project: Path, environment: dict[str, str], options: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "scalable.cli", "validate", *options],
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


def test_the_provider_validates_its_options(cli: Cli, project: Path) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(text.replace("n_workers: 1", "prize: 1"))

    result = cli("validate", "--json")

    (issue,) = json.loads(result.stdout)["issues"]
    assert result.exit_code == 2
    assert (issue["code"], issue["path"]) == ("E_UNKNOWN_KEY", "targets.demo.prize")
    assert "did you mean 'price'?" in issue["message"]


OTHERS = """\
version: 1
project: {name: test}
targets:
  demo: {provider: demo}
  other: {provider: demo, prize: 1}
  overlaid: {provider: demo, overlay: big, stuk: true}
  elsewhere: {provider: demo, account: "${NOT_SET_ANYWHERE}"}
  missing: {provider: nowhere, x: 1}
components:
  fair: {}
overlays:
  big: {components: {fair: {cpus: 8}}}
"""


def test_targets_that_are_not_selected_are_checked_too(cli: Cli, project: Path) -> None:
    (project / "scalable.yaml").write_text(OTHERS)

    everything = json.loads(cli("validate", "--json").stdout)
    selected = json.loads(cli("validate", "--json", "--target", "demo").stdout)

    errors = {issue["path"] for issue in everything["issues"] if issue["severity"] == "error"}
    warnings = {issue["path"] for issue in everything["issues"] if issue["severity"] == "warning"}
    assert errors == {"targets.other.prize", "targets.overlaid.stuk"}
    assert warnings == {"targets.elsewhere.account", "targets.missing.provider"}
    assert selected["ok"]


def test_a_provider_that_is_not_installed_is_named_once(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "scalable.yaml").write_text(OTHERS)
    monkeypatch.setenv("SCALABLE_TARGET", "missing")  # so that the others are checked, too

    issues = json.loads(cli("validate", "--json").stdout)["issues"]

    found = [issue["code"] for issue in issues if issue["path"] == "targets.missing.provider"]
    assert found == ["E_UNKNOWN_PROVIDER"]


BAD = {
    "a missing file": None,
    "an empty file": b"",
    "only comments": b"# nothing\n",
    "a list": b"- version: 1\n",
    "text": b"hello\n",
    "nested brackets": b"[" * 50_000,
    "a billion laughs": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n".encode()
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
    ),
    "a duplicate key": b"version: 1\nversion: 1\nproject: {name: x}\n",
    "not UTF-8": b"version: 1\nproject: {name: \xff\xfe}\n",
    "no YAML": b"version: 1\n  project: {name\n",
    "an unset variable": b'version: 1\nproject: {name: "${NOT_SET_ANYWHERE}"}\n'
    b"targets: {demo: {provider: demo}}\n",
    "an unknown provider": b"version: 1\nproject: {name: x}\ntargets: {d: {provider: dask}}\n"
    b"components: {a: {}}\n",
    "no target": b"version: 1\nproject: {name: x}\n",
}


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_manifest_that_cannot_be_used_is_reported_in_lines(
    cli: Cli, project: Path, command: str, content: bytes | None
) -> None:
    (project / "workflow.py").write_text("raise AssertionError('nothing may start')")
    (project / "scalable.yaml").unlink()
    if content is not None:
        (project / "scalable.yaml").write_bytes(content)

    result = cli(command, *(["--workflow", "workflow.py"] if command == "run" else []))

    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("scalable.yaml")
    assert all(": error: " in line for line in result.stderr.splitlines())
    assert not (project / ".scalable").exists()


def test_a_directory_is_not_a_manifest(cli: Cli) -> None:
    result = cli("validate", ".")

    assert result.exit_code == 2
    assert result.stderr.startswith(".: error: is a directory")


def test_an_unknown_target_names_the_known_ones(cli: Cli) -> None:
    result = cli("plan", "--target", "dmeo")

    assert result.exit_code == 2
    assert "did you mean 'demo'?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_plugin_that_raises_on_import_is_a_one_line_error(
    scalable: Scalable, project: Path, site: Path, install: Install
) -> None:
    install("broken", "broken_provider:Provider")
    (site / "broken_provider.py").write_text("raise RuntimeError('half\\ninstalled')\n")
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: x}\ntargets: {d: {provider: broken}}\ncomponents: {a: {}}\n"
    )

    result = scalable("validate")

    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "scalable-broken 1.0 cannot be used: RuntimeError: half installed" in line
    listed = scalable("providers")
    assert listed.returncode == 1
    assert [line.split()[:2] for line in listed.stdout.splitlines()][1:3] != []
    assert "quarantined" in listed.stdout
    assert "usable" in listed.stdout


# -- plan


def test_a_plan_shows_groups_and_cost(cli: Cli, project: Path) -> None:
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\n"
        "targets: {demo: {provider: demo, price: 2, max_workers: 9,\n"
        "  workers: {fair: 2, gcam: {minimum: 1, maximum: 4}}}}\n"
        "components: {fair: {cpus: 4, memory: 8Gi}, gcam: {gpus: 1}}\n"
        "tasks: {simulate: {component: fair}, report: {component: fair}}\n"
    )

    result = cli("plan")

    assert result.exit_code == 0
    header, _, columns, fair, gcam, *rest = result.stdout.splitlines()
    assert header.startswith("target demo (demo), manifest ")
    assert columns.split() == ["group", "workers", "cpus", "memory", "gpus", "walltime", "tasks"]
    assert fair.split() == ["fair", "2", "4", "8Gi", "-", "-", "simulate,", "report"]
    assert gcam.split() == ["gcam", "1", "(1", "to", "4)", "1", "-", "1", "-", "-"]
    assert "at most 9 workers in all groups together" in rest
    assert [line.split(",")[0].strip() for line in rest if "total" in line] == [
        "total: 6 USD/h",
        "total: 12 USD/h",
    ]


def test_sizes_and_times_are_shown_as_a_manifest_writes_them() -> None:
    request = ResourceRequest(memory=999_999_999, walltime=36 * 3600)
    plan = Plan("hpc", "slurm", "0" * 64, ScalePlan({"gcam": 1}, {"gcam": request}), {})

    _, _, _, gcam, *_ = describe(plan).splitlines()

    assert gcam.split() == ["gcam", "1", "1", "999999999", "-", "1-12:00:00", "-"]


def test_a_plan_as_json_reads_back_and_repeats(cli: Cli) -> None:
    first, second = cli("plan", "--json"), cli("plan", "--json")

    assert first.stdout == second.stdout
    assert Plan.from_json(first.stdout).scale_plan.workers_by_tag == {"fair": 1, "gcam": 1}


def test_a_plan_above_its_limit_is_shown_and_refused(cli: Cli, project: Path) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(
        text.replace("n_workers: 1", "n_workers: 1, price: 5, limits: {max_hourly_cost: 9}")
    )

    result = cli("plan")

    assert result.exit_code == 2
    assert "group" in result.stdout
    assert result.stderr.startswith("error: the plan may cost 10.00 USD/h")

    as_json = cli("plan", "--json")

    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["error"]["type"] == "LimitExceededError"


# -- init


def test_what_init_writes_is_valid_and_a_workflow(cli: Cli, project: Path) -> None:
    result = cli("init", "new")

    assert result.exit_code == 0
    manifest = project / "new" / "scalable.yaml"
    text = manifest.read_text().replace("provider: local", "provider: demo")
    manifest.write_text(text)
    assert cli("validate", str(manifest)).exit_code == 0
    compile((project / "new" / "workflow.py").read_text(), "workflow.py", "exec")


@pytest.mark.parametrize("name", ["local", "slurm", "kubernetes", "aws", "gcp"])
def test_the_first_target_of_a_new_manifest_is_of_an_installed_provider(name: str) -> None:
    targets = yaml.safe_load(write_targets([name, "of-somebody-else"]))
    assert [target["provider"] for target in targets.values()] == [name]
    assert "# pip install scalable-" in write_targets([name])


@pytest.mark.parametrize("name", ["scalable.yaml", "workflow.py"])
def test_init_overwrites_nothing(cli: Cli, project: Path, name: str) -> None:
    (project / "new").mkdir()
    (project / "new" / name).write_text("mine")

    result = cli("init", "new")

    assert result.exit_code == 2
    assert f"new/{name} exists" in result.stderr
    assert (project / "new" / name).read_text() == "mine"
    assert len(list((project / "new").iterdir())) == 1


def test_init_names_the_directory_that_it_cannot_write(cli: Cli) -> None:
    result = cli("init", "scalable.yaml/new")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: scalable.yaml/new: Not a directory; choose a directory that you can write to\n"
    )


def test_init_prints_what_it_wrote(cli: Cli) -> None:
    assert json.loads(cli("init", "new", "--json").stdout) == {
        "written": ["new/scalable.yaml", "new/workflow.py"]
    }
    *_, command = cli("init", "my runs").stdout.splitlines()
    manifest, workflow = "my runs/scalable.yaml", "my runs/workflow.py"
    assert shlex.split(command) == ["scalable", "run", manifest, "--workflow", workflow]


# -- providers and schema


def test_providers_are_listed_with_their_origin(scalable: Scalable) -> None:
    result = scalable("providers", "--json")

    demo = next(info for info in json.loads(result.stdout) if info["name"] == "demo")
    assert demo["status"] == "usable"
    assert (demo["distribution"], demo["version"]) == ("scalable-demo", "1.0")


def test_the_schema_has_the_options_of_installed_providers(cli: Cli) -> None:
    result = cli("schema")

    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert "price" in json.dumps(schema)
    assert schema["properties"]["components"]
    assert cli("schema", "--json").stdout == result.stdout


# -- errors


def test_a_bug_is_one_line_and_a_traceback_only_on_demand(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from demo_provider import DemoProvider  # type: ignore[import-not-found]  # of the fixture

    def validate(self: object, spec: object) -> None:
        raise IndexError("no such entry")

    monkeypatch.setattr(DemoProvider, "validate", validate)

    quiet, loud, group = cli("validate"), cli("validate", "--debug"), cli("--debug", "validate")

    assert quiet.exit_code == loud.exit_code == group.exit_code == 1
    assert quiet.stderr == (
        "error: unexpected IndexError: no such entry; --debug shows where it came from\n"
    )
    assert "Traceback" in loud.stderr
    assert "Traceback" in group.stderr


def test_a_closed_pipe_ends_quietly(project: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "schema"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    process.wait()


# -- What is imported

HEAVY = {"dask", "distributed", "numpy", "rich", "tornado"}


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], HEAVY | {"pydantic", "yaml", "asyncio"}),
        (["validate", "--help"], HEAVY | {"pydantic", "yaml", "asyncio"}),
        (["validate"], HEAVY | {"asyncio"}),
        (["plan"], HEAVY | {"asyncio"}),
        (["providers"], HEAVY),
        (["schema"], HEAVY),
    ],
    # A set has no order, and so no name that each process of pytest-xdist would give it.
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_no_more_than_it_needs(
    project: Path, environment: dict[str, str], arguments: list[str], forbidden: set[str]
) -> None:
    # The demo provider imports Dask at its top; one that is made as it should be does not.
    (project / "light.py").write_text(
        "from scalable.providers.common import BaseProvider\n"
        "from scalable.providers.options import TargetOptions\n"
        "class Light(BaseProvider[TargetOptions]):\n"
        "    name = 'light'\n"
        "    options_model = TargetOptions\n"
        "    def _build(self, spec, options): ...\n"
    )
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(text.replace("provider: demo", "provider: light"))
    program = (
        "import sys\n"
        "from scalable.providers.registry import register_provider\n"
        "if sys.argv[1] in ('validate', 'plan') and '--help' not in sys.argv:\n"
        "    import light\n"
        "    register_provider('light', light.Light)\n"
        "from scalable.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print(sorted({forbidden!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    script = project / "scalable_command.py"
    script.write_text(program)
    path = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**environment, **path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr.splitlines()[-1] == "[]"
    if arguments != ["providers"]:
        assert done.returncode == 0


def test_a_standard_stream_that_is_closed_takes_no_output_of_another(
    scalable: Scalable, project: Path, environment: dict[str, str]
) -> None:
    (project / "workflow.py").write_text(
        "import os, sys\n"
        "from scalable.session import ScalableSession\n"
        "print(os.readlink('/proc/self/fd/2'), file=sys.stderr)\n"
        "with ScalableSession.from_yaml() as client:\n"
        "    print(client.submit(abs, -3, tag='fair').result())\n"
    )
    command = f"{sys.executable} -m scalable.cli run -w workflow.py"
    for closed, expected in (("2>&-", "3\n"), ("0<&-", "3\n"), (">&-", "")):
        done = subprocess.run(
            ["sh", "-c", f"exec {command} {closed}"],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, expected), (closed, done.stderr)
        assert closed == "2>&-" or "finished after" in done.stderr
    assert scalable("runs", "show", "latest").returncode == 0


def test_a_group_of_commands_without_one_shows_its_help(scalable: Scalable) -> None:
    done = scalable("results")

    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ("distributed: {scheduler: ", "site.yaml"),
        ("- distributed", "site.yaml"),
        ("logging: {version: 3}", "the key logging in it: Unsupported version: 3"),
        ("logging-file-config: /no/such.ini", "/no/such.ini"),
    ],
)
def test_configuration_with_which_dask_cannot_be_imported_is_a_line(
    tmp_path: Path, configuration: str, says: str
) -> None:
    (tmp_path / "site.yaml").write_text(configuration)
    program = (
        "from scalable.cli.failures import report_error\n"
        "try: import distributed\n"
        "except Exception as error:\n"
        "    failure = report_error(error, as_json=False, debug=False)\n"
        "    failure.show()\n"
        "    raise SystemExit(failure.exit_code)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DASK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: Dask's configuration cannot be used: ")
    assert says in done.stderr
    assert ("the key logging" in done.stderr) == ("logging" in configuration)


def test_ctrl_c_while_the_command_is_imported_is_a_line(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    # Ctrl-C comes while the first module of another package is imported.
    modules = tmp_path / "early"
    modules.mkdir()
    (modules / "click.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n"
    )
    path = os.pathsep.join([str(modules), environment["PYTHONPATH"]])
    program = tmp_path / "scalable"
    program.write_text("from scalable.cli import main\nmain()\n")
    for command in ([str(program)], ["-m", "scalable.cli"]):
        done = subprocess.run(
            [sys.executable, *command, "plan"],
            cwd=project,
            env={**environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    as_library = subprocess.run(
        [sys.executable, "-c", "import scalable.cli"],
        cwd=project,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "KeyboardInterrupt" in as_library.stderr
