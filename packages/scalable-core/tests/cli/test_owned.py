"""``scalable ps`` and ``scalable reap``: whom they ask, what they list, and what they remove."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scalable.cli import asking, main, standing
from scalable.cluster.ledger import FILE, Ledger
from scalable.cluster.port import Leftover
from scalable.errors import ClusterError, ProviderNotSetUpError
from scalable.providers.base import ClusterHandle, DeploymentSpec, Owned, current_owner
from scalable.providers.common import BaseProvider
from scalable.providers.options import TargetOptions
from scalable.providers.registry import clear_registry, register_provider
from scalable.runs import RunRecord, read_record
from scalable.session import ScalableSession

ME = current_owner()
LONG = 60.0


class SiteOptions(TargetOptions):
    site: str = "here"


class SiteProvider(BaseProvider[SiteOptions]):
    """A provider of several sites, each with resources of runs."""

    name = "batch"
    options_model = SiteOptions

    def __init__(self) -> None:
        self.owned = {
            "here": [
                Owned("job", "job-1", run_id="r1", owner=ME, detail="gcam running"),
                Owned("job", "job-2", run_id="r2", owner=ME),
            ]
        }
        self.locked: set[str] = set()
        self.errors: dict[str, BaseException] = {}
        self.later: dict[str, Any] = {}
        self.asked: list[str] = []

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        site = self.parse_options(spec).site
        self.asked.append(site)
        if site in self.errors:
            raise self.errors[site]
        if site in self.later and len(self.asked) > 1:
            self.owned[site] = self.later.pop(site)
        return self.owned.get(site, [])

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        site = self.parse_options(spec).site
        left = [resource for resource in owned if resource.name in self.locked]
        self.owned[site] = [
            resource for resource in self.owned[site] if resource not in owned or resource in left
        ]
        return [Leftover(resource.kind, resource.name, "it is locked") for resource in left]

    def _build(self, spec: DeploymentSpec, options: SiteOptions) -> ClusterHandle:
        raise AssertionError("nothing here builds")


@pytest.fixture
def batch(project: Path) -> Iterator[SiteProvider]:
    write(project, "demo: {provider: batch}")
    clear_registry()
    made = SiteProvider()
    register_provider("batch", lambda: made)
    yield made
    clear_registry()


Cli = Callable[..., Result]


@pytest.fixture
def cli(project: Path) -> Cli:
    def cli(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, arguments, prog_name="scalable", input=stdin)

    return cli


def write(project: Path, *targets: str, components: str = "gcam: {}") -> None:
    lines = "\n".join(f"  {target}" for target in targets)
    (project / "scalable.yaml").write_text(
        f"version: 1\nproject: {{name: test}}\ntargets:\n{lines}\ncomponents: {{{components}}}\n"
    )


def begin_run(project: Path, **options: Any) -> RunRecord:
    (project / "workflow.py").write_text("pass")
    session = ScalableSession.from_yaml(**options)
    plan = session.plan()
    return RunRecord.begin(session, plan, workflow=Path("workflow.py"), arguments=[])


def names(result: Result) -> list[str]:
    return [resource["name"] for resource in json.loads(result.stdout)]


# -- Whom they ask


def test_ps_lists_the_resources_of_runs(batch: SiteProvider, cli: Cli) -> None:
    result = cli("ps")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == [
        *("demo", "batch", "r1", "foreign", "job", "job-1", ME, "gcam", "running")
    ]


def test_json_has_a_stable_shape(batch: SiteProvider, cli: Cli) -> None:
    first, _ = json.loads(cli("ps", "--json").stdout)
    assert first == {
        "provider": "batch",
        "target": "demo",
        "kind": "job",
        "name": "job-1",
        "run_id": "r1",
        "owner": ME,
        "detail": "gcam running",
        "place": "",
        "standing": "foreign",
    }


def test_all_targets_of_the_manifest_are_asked(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    batch.owned["there"] = [Owned("job", "job-3", "r3", ME)]
    write(project, "a: {provider: batch}", "b: {provider: batch, site: there}")
    assert names(cli("ps", "--json")) == ["job-1", "job-2", "job-3"]
    assert names(cli("ps", "--json", "--target", "b")) == ["job-3"]
    assert names(cli("ps", "--json", "--provider", " Batch")) == ["job-1", "job-2", "job-3"]
    other = SiteProvider()
    other.owned = {}
    register_provider("other", lambda: other)
    assert names(cli("ps", "--json", "--provider", "other")) == []
    (project / "scalable.yaml").rename(project / "other.yaml")
    assert names(cli("ps", "--json", "other.yaml", "--target", "b")) == ["job-3"]


def test_targets_at_one_place_are_listed_once(batch: SiteProvider, cli: Cli, project: Path) -> None:
    write(
        project,
        "a: {provider: batch}",
        "b: {provider: batch}",
        "c: {provider: batch, n_workers: 2}",
    )
    listed = json.loads(cli("ps", "--json").stdout)
    assert [(each["target"], each["name"]) for each in listed] == [("a", "job-1"), ("a", "job-2")]
    assert batch.asked == ["here", "here"], "the same options are not asked twice"


def test_equal_names_at_two_places_are_two_resources(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    batch.owned = {
        site: [Owned("pod", "worker-0", site, ME, place=site)] for site in ("east", "west")
    }
    write(project, "e: {provider: batch, site: east}", "w: {provider: batch, site: west}")
    assert names(cli("ps", "--json")) == ["worker-0", "worker-0"]


def test_without_a_manifest_each_provider_is_asked(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    (project / "scalable.yaml").unlink()
    listed = json.loads(cli("ps", "--json", "--provider", "batch").stdout)
    assert [(each["target"], each["name"]) for each in listed] == [(None, "job-1"), (None, "job-2")]
    assert {"job-1", "job-2"} <= set(names(cli("ps", "--json")))


def test_a_target_that_is_named_needs_a_manifest(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    assert cli("ps", "--target", "hpc").exit_code == 2
    (project / "scalable.yaml").unlink()
    result = cli("ps", "--target", "demo")
    assert result.exit_code == 2
    assert "there is no such file" in result.stderr
    assert batch.asked == []


def test_where_nothing_can_be_asked_ps_says_so(demo: None, cli: Cli, project: Path) -> None:
    result = cli("ps")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: there is nothing to ask")


def test_a_provider_that_needs_options_is_noted_without_a_manifest(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    class RegionOptions(TargetOptions):
        region: str

    class RegionProvider(SiteProvider):
        name = "cloud"
        options_model = RegionOptions  # type: ignore[assignment]

    register_provider("cloud", RegionProvider)
    (project / "scalable.yaml").unlink()
    result = cli("ps")
    assert "note: provider 'cloud' was not asked: it needs a target of a manifest" in result.stderr
    assert "job-1" in result.stdout


def test_ps_refuses_a_provider_without_resources(demo: None, cli: Cli) -> None:
    result = cli("ps", "--provider", "demo")
    assert result.exit_code == 2
    assert "has no resources that could be listed" in result.stderr


# -- Trouble


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ClusterError("the site is down; try again later"),
            "the site is down; try again later",
        ),
        (
            ConnectionError("All connection\nattempts failed"),
            "ConnectionError: All connection attempts failed",
        ),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_trouble_of_one_target_is_a_line_and_the_others_are_listed(
    batch: SiteProvider, cli: Cli, project: Path, error: BaseException, line: str
) -> None:
    batch.errors["down"] = error
    write(project, "bad: {provider: batch, site: down}", "good: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: target 'bad' of provider 'batch' cannot list its resources: {line}\n"
    )
    assert "job-1" in result.stdout


def test_a_method_with_another_signature_is_trouble_of_its_provider(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    class Old(SiteProvider):
        name = "old"

        def list_owned(self) -> Sequence[Owned]:  # type: ignore[override]
            return []

    register_provider("old", Old)
    write(project, "a: {provider: old}", "b: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "error: target 'a' of provider 'old' cannot list its resources: TypeError"
    )
    assert "job-1" in result.stdout


@pytest.mark.parametrize("answer", [None, ["job-1"]])
def test_an_answer_of_another_type_is_trouble_of_its_provider(
    batch: SiteProvider, cli: Cli, project: Path, answer: Any
) -> None:
    batch.owned["odd"] = answer
    write(project, "a: {provider: batch, site: odd}", "b: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 1
    assert "target 'a' of provider 'batch' cannot list its resources: TypeError" in result.stderr
    assert "job-1" in result.stdout


def test_a_provider_that_does_not_answer_does_not_hold_up_the_others(
    batch: SiteProvider, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    class Hanging(SiteProvider):
        name = "hanging"

        def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
            answer.wait(LONG)
            return []

    monkeypatch.setattr(asking, "DEADLINE", 1.0)
    register_provider("hanging", Hanging)
    write(project, "a: {provider: hanging}", "b: {provider: batch}")
    try:
        result = cli("ps")
    finally:
        answer.set()
    assert result.exit_code == 1
    assert "target 'a' of provider 'hanging' cannot list its resources" in result.stderr
    assert "job-1" in result.stdout


@pytest.mark.parametrize(
    "bad", ["bad: {provider: batch, sit: here}", "bad: {site: here}", "bad: 7"]
)
def test_a_target_that_is_not_valid_is_a_line_and_the_others_are_listed(
    batch: SiteProvider, cli: Cli, project: Path, bad: str
) -> None:
    write(project, bad, "good: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: target 'bad'")
    assert "was not asked: " in line
    assert "job-1" in result.stdout


def test_problems_of_components_do_not_matter(batch: SiteProvider, cli: Cli, project: Path) -> None:
    write(
        project,
        "demo: {provider: batch}",
        components='gcam: {env: {TOKEN: "${NOT_SET_HERE}"}, cpu: 1}',
    )
    result = cli("ps")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "job-1" in result.stdout


def test_a_manifest_that_cannot_be_read_is_a_line_unless_it_is_named(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    begin_run(project)
    (project / "scalable.yaml").write_text("version: [")
    result = cli("ps")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: manifest scalable.yaml: ")
    assert "job-1" in result.stdout
    assert cli("ps", "scalable.yaml").exit_code == 2


NOT_SET_UP = "provider 'batch' is not set up on this machine: qstat is missing; install it"


def test_a_provider_that_is_not_set_up_is_a_note_unless_it_is_named(
    batch: SiteProvider, cli: Cli
) -> None:
    batch.errors["here"] = ProviderNotSetUpError("batch", "qstat is missing", "install it")
    result = cli("ps")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"note: target 'demo' of provider 'batch' was not asked: {NOT_SET_UP}\n"
    for arguments in (["--target", "demo"], ["--provider", "batch"]):
        result = cli("ps", *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")


def test_a_variable_that_is_not_set_is_a_note(batch: SiteProvider, cli: Cli, project: Path) -> None:
    write(project, 'a: {provider: batch, site: "${NOT_SET_HERE}"}', "b: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 0
    assert "note: target 'a' was not asked: " in result.stderr
    assert "NOT_SET_HERE is not set" in result.stderr
    assert "job-1" in result.stdout
    assert cli("ps", "--target", "a").exit_code == 1


def test_a_provider_that_is_not_installed_is_a_note(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    write(project, "a: {provider: nowhere}", "b: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 0
    assert "note: target 'a' of provider 'nowhere' was not asked" in result.stderr
    assert "job-1" in result.stdout


def test_values_from_the_environment_are_not_shown(
    batch: SiteProvider, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE", "hunter2hunter2")
    batch.errors["hunter2hunter2"] = ConnectionError("no route to hunter2hunter2")
    write(project, "a: {provider: batch, site: '${SITE}'}")
    begin_run(project)
    result = cli("ps")
    assert batch.asked == ["hunter2hunter2"]
    assert "no route to ${SITE}" in result.stderr
    assert "hunter2" not in result.output


# -- Records of runs


def test_a_run_that_has_not_removed_everything_is_asked_about(
    batch: SiteProvider, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at a target that the manifest has no more, by an overlay that was named, and as the environment is now."""
    monkeypatch.setenv("SITE", "secret-there")
    batch.owned["secret-there"] = [Owned("job", "job-9", "r9", ME)]
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\n"
        "targets: {old: {provider: batch, site: wrong, overlay: own}}\n"
        'components: {gcam: {env: {TOKEN: "${TOKEN:-none}"}}}\n'
        "overlays:\n"
        '  own: {targets: {old: {site: "also wrong"}}}\n'
        '  other: {targets: {old: {site: "${SITE}"}}}\n'
    )
    record = begin_run(project, overlay="other")
    assert "secret-there" not in (record.directory / "record.json").read_text()
    write(project, "new: {provider: batch}")
    assert names(cli("ps", "--json")) == ["job-1", "job-2", "job-9"]
    assert names(cli("ps", "--json", "--target", "new")) == ["job-1", "job-2"]

    record.end(1, everything_removed=False)
    assert names(cli("ps", "--json")) == ["job-1", "job-2", "job-9"]
    record.end(0, everything_removed=True)
    assert names(cli("ps", "--json")) == ["job-1", "job-2"]


def test_trouble_with_a_recorded_target_says_how_to_forget_it(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    write(project, "old: {provider: batch, site: closed}")
    directory = begin_run(project).shown
    batch.errors["closed"] = ConnectionError("it does not exist any more")
    write(project, "new: {provider: batch}")
    result = cli("ps")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: target 'old' of provider 'batch' (run {directory.name}) cannot list its resources: ConnectionError: "
        f"it does not exist any more; if nothing can be left of this run, remove {directory}\n"
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"target": "x", "manifest": 7}', "\udcff"])
def test_a_record_that_cannot_be_read_is_a_line(
    batch: SiteProvider, cli: Cli, project: Path, content: str
) -> None:
    directory = project / ".scalable/runs/odd"
    directory.mkdir(parents=True)
    (directory / "record.json").write_bytes(content.encode(errors="surrogateescape"))
    result = cli("ps")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: the record of run odd cannot be read: ")
    assert "job-1" in result.stdout


def test_links_are_not_followed_to_records(batch: SiteProvider, cli: Cli, project: Path) -> None:
    batch.owned["there"] = [Owned("job", "job-9", "r9", ME)]
    write(project, "old: {provider: batch, site: there}")
    directory = begin_run(project).directory
    moved = directory.rename(project / "moved")
    write(project, "new: {provider: batch}")
    directory.symlink_to(moved)
    assert names(cli("ps", "--json")) == ["job-1", "job-2"]
    directory.unlink()
    directory.mkdir()
    (directory / "record.json").symlink_to(moved / "record.json")
    result = cli("ps")
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr


# -- Removing


def test_reap_removes_the_runs_that_are_named_and_no_other(batch: SiteProvider, cli: Cli) -> None:
    result = cli("reap", "r1", "--yes")
    assert result.exit_code == 0
    assert [resource.name for resource in batch.owned["here"]] == ["job-2"]


def test_reap_asks_the_target_that_has_the_resources(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    batch.owned["there"] = [Owned("job", "job-3", "r1", ME)]
    write(project, "a: {provider: batch}", "b: {provider: batch, site: there}")
    (project / "scalable.yaml").rename(project / "other.yaml")
    assert cli("reap", "r1", "--yes", "--manifest", "other.yaml").exit_code == 0
    assert {site: [r.name for r in owned] for site, owned in batch.owned.items()} == {
        "here": ["job-2"],
        "there": [],
    }


def test_reap_takes_runs_or_all(batch: SiteProvider, cli: Cli) -> None:
    assert cli("reap", "r1", "--all").exit_code == 2
    assert batch.asked == []


# -- Orphans


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture(autouse=True)
def _without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "CONFIRM_AFTER", 0.0)


def begin_ledger(record: RunRecord, run_id: str, **changes: Any) -> None:
    """Write the ledger of a run that has requested one worker, of this process unless `changes` says otherwise."""
    ledger = Ledger(record.directory)
    ledger.begin(run_id)
    ledger.launch("gcam", 1, "request")
    path = record.directory / FILE
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | changes), *rest, ""]))


def standings(cli: Cli) -> dict[str, str]:
    return {each["name"]: each["standing"] for each in json.loads(cli("ps", "--json").stdout)}


def test_ps_joins_ledgers_with_what_providers_show(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    runs: dict[str, dict[str, Any]] = {
        "r1": {},
        "r2": {"pid": dead},
        "r3": {"host": "another"},
        "r4": {"started": 1},
        "r5": {"boot": "before"},
        "r6": {"namespace": "pid:[7]", "pid": dead},
    }
    for run, changes in runs.items():
        begin_ledger(begin_run(project), run, **changes)
    batch.owned["here"] = [Owned("job", f"job-{n}", f"r{n}", ME) for n in range(1, 8)]

    assert standings(cli) == {
        "job-1": "alive",
        "job-2": "orphan",
        "job-3": "elsewhere",
        "job-4": "orphan",
        "job-5": "orphan",
        "job-6": "elsewhere",
        "job-7": "foreign",
    }


def test_ps_lists_a_run_that_lives_although_its_provider_shows_nothing(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    alive, ended, elsewhere, shown = (begin_run(project) for _ in range(4))
    begin_ledger(alive, "r7")
    begin_ledger(ended, "r8", pid=dead)
    begin_ledger(elsewhere, "r9", host="another")
    begin_ledger(shown, "r1")
    batch.owned["here"] = [Owned("job", "job-1", "r1", ME)]

    assert standings(cli) == {
        "job-1": "alive",
        alive.directory.name: "alive",
        elsewhere.directory.name: "elsewhere",
        ended.directory.name: "lost",
    }
    row = next(line for line in cli("ps").stdout.splitlines() if alive.directory.name in line)
    assert row.split()[2:5] == ["r7", "alive", "run"]
    # Also where only its target, its manifest or its provider is meant, and not where others are.
    for meant in (("--target", "demo"), ("--provider", "batch"), (str(project / "scalable.yaml"),)):
        listed = json.loads(cli("ps", "--json", *meant).stdout)
        assert alive.directory.name in {each["name"] for each in listed}, meant
    other = project / "other.yaml"
    other.write_text((project / "scalable.yaml").read_text())
    listed = json.loads(cli("ps", "--json", str(other)).stdout)
    assert {each["name"] for each in listed} == {"job-1"}
    # It is nothing to reap.
    refused = cli("reap", alive.directory.name, "--yes")
    assert refused.exit_code == 1
    assert f"run {alive.directory.name} lives; end it with `scalable down`" in refused.stderr
    assert "no run has resources" not in refused.stderr


def test_what_is_known_of_runs_of_another_machine_is_said_and_nothing_is_removed(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    shown, unshown = begin_run(project), begin_run(project)
    for record, run, when in ((shown, "r1", None), (unshown, "r9", (1.0, 1.0))):
        begin_ledger(record, run, host="login2")
        record.document["process"]["host"] = record.document["process"]["identity"]["host"] = (
            "login2"
        )
        record._write()
        os.utime(record.directory / "record.json", when)

    listed = cli("ps")
    process = f"process {os.getpid()} on login2"
    assert f"note: r1: {process}, last heard " in listed.stderr
    assert f"{process}, not heard of since 1970-01-01T00:00:01+00:00" in listed.stdout
    assert cli("reap", "--yes").exit_code == 0
    refused = cli("reap", unshown.directory.name, "--yes")
    assert refused.exit_code == 1
    assert "is not known to have ended" in refused.stderr
    assert f"if that machine is gone, delete {unshown.shown}" in refused.stderr
    assert [each.name for each in batch.owned["here"]] == ["job-1", "job-2"]
    for record in (shown, unshown):
        assert read_record(record.directory) == record.document


def test_a_machine_of_the_same_name_that_is_heard_of_is_another_one(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r1", boot="another")
    record.document["process"]["identity"]["boot"] = "another"
    record._write()
    assert standings(cli)["job-1"] == "elsewhere"
    os.utime(record.directory / "record.json", (1, 1))
    assert standings(cli)["job-1"] == "orphan"


def test_what_a_run_that_has_ended_could_not_remove_is_an_orphan(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r1")
    record.end(1, everything_removed=False)

    assert standings(cli)["job-1"] == "orphan"


def test_reap_removes_orphans_alone(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    ended = begin_run(project)
    begin_ledger(ended, "r1", pid=dead)
    begin_ledger(begin_run(project), "r2")
    batch.owned["here"] += [Owned("job", "job-3", "r1", "somebody"), Owned("job", "job-4", "x", ME)]

    result = cli("reap", "--yes")

    assert result.exit_code == 0, result.stderr
    assert [each.name for each in batch.owned["here"]] == ["job-2", "job-3", "job-4"]
    assert batch.asked == ["here", "here"]
    assert json.loads((ended.directory / "record.json").read_text())["everything_removed"] is True


def test_an_orphan_that_is_shown_once_is_left_alone(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    """As are those that are shown only the second time: each must be shown twice."""
    begin_ledger(begin_run(project), "r1", pid=dead)
    batch.later["here"] = [Owned("job", "job-9", "r1", ME)]

    result = cli("reap", "--yes")

    assert result.exit_code == 0
    assert "no orphan was shown twice" in result.stderr
    assert [each.name for each in batch.owned["here"]] == ["job-9"]


def test_what_ends_by_itself_while_down_asks_for_it_is_gone(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r1")
    record.end(1)
    batch.later["here"] = []

    result = cli("down", record.directory.name)

    assert (result.exit_code, batch.owned["here"]) == (0, [])
    assert f"nothing is left of run {record.directory.name}" in result.stderr
    written = json.loads((record.directory / "record.json").read_text())
    assert written["everything_removed"] is True


def test_an_answer_that_does_not_come_a_second_time_removes_nothing(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r1", pid=dead)
    batch.later["here"] = None

    result = cli("reap", "--yes")

    assert json.loads((record.directory / "record.json").read_text())["everything_removed"] is False
    assert result.exit_code == 1


def test_an_orphan_that_cannot_be_removed_stays_one(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r1", pid=dead)
    batch.locked = {"job-1"}

    assert cli("reap", "--yes").exit_code == 1
    assert json.loads((record.directory / "record.json").read_text())["everything_removed"] is False
    assert standings(cli)["job-1"] == "orphan"


def test_a_killed_run_of_which_nothing_is_left_is_lost_until_it_is_reaped(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r9", pid=dead)

    assert standings(cli)[record.directory.name] == "lost"
    assert f"note: run {record.directory.name} has ended" in cli("ps").stderr
    result = cli("reap", "--yes")
    assert result.exit_code == 0
    assert f"nothing is left of run {record.directory.name}" in result.stderr
    assert record.directory.name not in standings(cli)
    assert len(batch.owned["here"]) == 2


def test_a_run_is_not_lost_while_its_target_does_not_answer(
    batch: SiteProvider, cli: Cli, project: Path, dead: int
) -> None:
    record = begin_run(project)
    begin_ledger(record, "r9", pid=dead)
    batch.errors["here"] = ConnectionError("no answer")

    assert standings(cli) == {}
    assert cli("reap", "--yes").exit_code == 1
    assert json.loads((record.directory / "record.json").read_text())["everything_removed"] is False


def test_reap_asks_before_it_removes(batch: SiteProvider, cli: Cli) -> None:
    assert cli("reap", "--all", stdin="n\n").exit_code == 1
    assert len(batch.owned["here"]) == 2
    assert cli("reap", "--all", stdin="y\n").exit_code == 0
    assert batch.owned["here"] == []


def test_reap_all_leaves_the_resources_of_others(batch: SiteProvider, cli: Cli) -> None:
    batch.owned["here"] += [
        Owned("job", "job-3", "r3", "somebody"),
        Owned("job", "job-4", "r4", "somebody"),
        Owned("job", "job-5", "r5", ""),
    ]
    result = cli("reap", "--all", "--yes")
    assert result.exit_code == 0
    assert "note: left out what is not yours: 2 of somebody, 1 of an unknown owner" in result.stderr
    assert [resource.name for resource in batch.owned["here"]] == ["job-3", "job-4", "job-5"]


def test_reap_refuses_the_run_of_somebody_else(batch: SiteProvider, cli: Cli) -> None:
    batch.owned["here"].append(Owned("job", "job-3", "r3", "somebody"))
    result = cli("reap", "r1", "r3", "--yes")
    assert result.exit_code == 1
    assert "error: run r3 belongs to somebody, who alone may remove it\n" in result.stderr
    assert [resource.name for resource in batch.owned["here"]] == ["job-2", "job-3"]


def test_a_run_without_a_known_owner_can_be_named(batch: SiteProvider, cli: Cli) -> None:
    batch.owned["here"] = [Owned("job", "job-5", "r5", "")]
    assert cli("reap", "r5", "--yes").exit_code == 0
    assert batch.owned["here"] == []


def test_reap_names_what_could_not_be_removed(batch: SiteProvider, cli: Cli) -> None:
    batch.locked = {"job-1"}
    result = cli("reap", "--all", "--yes")
    assert result.exit_code == 1
    assert "error: could not remove job job-1 (it is locked)" in result.stderr
    assert [resource.name for resource in batch.owned["here"]] == ["job-1"]


def test_reap_goes_on_after_a_provider_that_fails(
    batch: SiteProvider, cli: Cli, project: Path
) -> None:
    class Failing(SiteProvider):
        name = "failing"

        def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
            raise ConnectionError("reset by peer")

    register_provider("failing", Failing)
    write(project, "a: {provider: failing}", "b: {provider: batch}")
    result = cli("reap", "r1", "--yes", "--json")
    assert result.exit_code == 1
    assert "could not remove job job-1 (ConnectionError: reset by peer)" in result.stderr
    document = json.loads(result.stdout)
    assert [(each["target"], each["name"]) for each in document["removed"]] == [("b", "job-1")]
    assert document["left"] == [
        {
            "provider": "failing",
            "target": "a",
            "kind": "job",
            "name": "job-1",
            "error": "ConnectionError: reset by peer",
            "is_certain": True,
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["r3", "r4"],
            "there are no resources of r3 or r4 in a queue or a cloud; see `scalable ps`",
        ),
        (["--all"], "no run has resources in a queue or a cloud"),
    ],
)
def test_reap_reports_that_there_is_nothing(
    batch: SiteProvider, cli: Cli, arguments: list[str], message: str
) -> None:
    if arguments == ["--all"]:
        batch.owned = {}
    result = cli("reap", *arguments, "--yes")
    assert (result.exit_code, result.stderr) == (0, f"scalable: {message}\n")
    assert json.loads(cli("reap", *arguments, "--json").stdout) == {"removed": [], "left": []}
