"""Sessions of the Scalable monorepo: ``nox`` runs what a change must pass, ``nox -l`` lists them.

Sessions install the wheels that `wheels` has built, as users would, and never the source tree. All else they install in
the versions of ``constraints.txt``, which are known to work; `upstream` takes the newest instead.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import nox

# What is started in the background or by nohup ignores these, and so would all that it starts, tests of them included.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
# A machine has the Pythons it has. The workflows, where each Python is a job, ask for the error.
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
WHEELS = DIST / "constraints.txt"
"""Where the wheel of each distribution of ours is."""
KNOWN_GOOD = ROOT / "constraints.txt"
"""The version of everything else that sessions install. `constraints` renews it."""
REPORTS = ROOT / ".nox" / "reports"

# One more than there are cores, since most tests wait for processes that they have started.
PARALLEL = (f"--numprocesses={min(os.cpu_count() or 1, 7) + 1}", "--dist=worksteal")
"""pytest's options for tests that may run beside each other."""

CODE = {
    "scalable-core": "scalable",
    "scalable-local": "scalable/providers/local",
    "scalable-slurm": "scalable/providers/slurm",
    "scalable-kubernetes": "scalable/providers/kubernetes",
    "scalable-aws": "scalable/providers/cloud/aws",
    "scalable-gcp": "scalable/providers/cloud/gcp",
}
"""Each distribution that has code, and where in the namespace it keeps it."""

SYSTEMS = {
    "containers": "scalable-local",
    "slurm": "scalable-slurm",
    "kubernetes": "scalable-kubernetes",
    "aws": "scalable-aws",
    "gcp": "scalable-gcp",
}
"""What ``tests-integration/<system>`` brings up for real, and whose provider it tests on it."""

SYSTEM_GROUPS = {"kubernetes": "operator", "aws": "aws-account"}
"""The group of what a system is brought up with, where that is from PyPI."""

SYSTEM_PROCESSES = {"containers": 0, "slurm": 4, "kubernetes": 4, "aws": 4, "gcp": 4}
"""In how many processes tests run beside each other. Each has a Slurm, a namespace, an account or a project of its own,
and waits for half of the time or more. Containers are in one list for all processes of a user, which tests compare."""

BROKEN = "--maxfail=10"
"""Ends a run on a system that is broken, where each test would wait for its own timeout."""

MATRICES = ("kubernetes", "slurm", "aws", "gcp")
"""The systems whose ``matrices`` take too long to run each time."""

PACKAGES = (*CODE, "scalable")
NAMESPACE = ("scalable", "scalable/providers", "scalable/providers/cloud")

TOOLS = nox.project.load_toml(ROOT / "pyproject.toml")
CORE = nox.project.load_toml(ROOT / "packages/scalable-core/pyproject.toml")
SUPPORTED = nox.project.python_versions(CORE)
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = tuple(dict.fromkeys((*SUPPORTED, HERE)))

# The whole suite runs on one Python, the one that runs nox. On each other that the machine has, the
# integration session drives all distributions together, examples included; that shows in a minute
# what differs between Pythons. The workflows run everything on each of them.
nox.options.sessions = [
    "lint",
    "wheels",
    "types",
    "docs",
    f"tests-{HERE}",
    *(f"systems-{HERE}({system})" for system in ("containers", "slurm", "aws", "gcp")),
    "integration",
    # Last, because `.ci/run` builds its programs meanwhile. `minimums` and `stores` are run by the workflows, and like
    # `matrices` by name by whoever changes what they test.
    f"systems-{HERE}(kubernetes)",
]


versions = [f"--constraint={KNOWN_GOOD}"]
"""The installer's options that choose versions. `upstream` changes them for the sessions after it."""

reports: list[tuple[str, Path]] = []
"""The sessions of this run that have started pytest, each with its report."""


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(TOOLS, name))


def _install(session: nox.Session, *requirements: str, group: str) -> None:
    """Install a group of tools, and what else is asked for: distributions of ours from their wheels only."""
    ours = [f"--constraint={WHEELS}"] if requirements else []
    if not _is_upstream():
        # What builds a requirement is installed by itself, and reads these.
        builds = ("PIP_BUILD_CONSTRAINT", "UV_BUILD_CONSTRAINT")
        session.env.update(dict.fromkeys(builds, str(KNOWN_GOOD)))
    session.install(*versions, *ours, *requirements, *_group(group))


def _is_upstream() -> bool:
    return f"--constraint={KNOWN_GOOD}" not in versions


def _pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest with these arguments and those of the command line, and keep its report."""
    report = REPORTS / f"{len(reports)}.xml"
    report.unlink(missing_ok=True)
    reports.append((session.name, report))
    warnings = []
    if _is_upstream():
        # A deprecation elsewhere is not a fault of ours. As an option, since -W takes no pattern of modules.
        warnings = ["--override-ini=filterwarnings=default\nerror:::scalable"]
    session.run("pytest", f"--junit-xml={report}", *warnings, *arguments, *session.posargs)


def _left_out() -> Iterator[str]:
    """Name what this run has not run, and why."""
    for session, report in reports:
        tests = ElementTree.parse(report).iter("skipped") if report.exists() else ()  # noqa: S314 - our own
        for reason, n in Counter(str(test.get("message")) for test in tests).items():
            yield f"{session}: {n} skipped: {reason}"
    ran = {session for session, _ in reports}
    if any(session.startswith("integration-") for session in ran):
        for python in SUPPORTED:
            if f"integration-{python}" not in ran:
                yield f"integration-{python}: there is no python{python}, or its environment failed"


@atexit.register
def _print_left_out() -> None:
    if reports:
        print("Left out of this run:", *([*_left_out()] or ["nothing"]), sep="\n  * ")


def _wheel(package: str) -> Path:
    (wheel,) = DIST.glob(f"{package.replace('-', '_')}-*.whl")
    return wheel


def _everything() -> str:
    # By its file: pip 23 does not apply a constraint that is a file to a requirement with extras.
    return f"scalable[all] @ {_wheel('scalable').as_uri()}"


def _examples() -> list[str]:
    """Return what to install for the examples: what some need, and one that is a distribution itself."""
    needed = [f"--requirement={path}" for path in ROOT.glob("examples/*/requirements.txt")]
    return [*needed, *(str(path.parent) for path in ROOT.glob("examples/*/pyproject.toml"))]


def _site_packages(session: nox.Session) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(str(session.run("python", "-c", code, silent=True)).strip())


def _faults(wheels: Iterable[Path]) -> list[str]:
    """Return what makes these wheels unfit to share one namespace, or to be published."""
    owners: Counter[str] = Counter()
    faults = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            licences = [archive.read(n) for n in names if n.endswith(".dist-info/licenses/LICENSE")]
        code = [name for name in names if ".dist-info/" not in name]
        owners.update(code)
        if licences != [(ROOT / "LICENSE").read_bytes()]:
            faults.append(f"{wheel.name}: its LICENSE is not the repository's")
        if code and not any(name.endswith("/py.typed") for name in code):
            faults.append(f"{wheel.name}: no py.typed")
        faults += [
            f"{wheel.name}: {name} is outside of scalable/"
            for name in code
            if not name.startswith("scalable/")
        ]
        faults += [
            f"{wheel.name}: {part}/__init__.py ends the namespace"
            for part in NAMESPACE
            if f"{part}/__init__.py" in code
        ]
    return faults + [f"{name} is in {n} wheels" for name, n in owners.items() if n > 1]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    _install(session, group="lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every distribution; fail if two own one file or any owns the namespace itself."""
    _install(session, group="build")
    shutil.rmtree(DIST, ignore_errors=True)
    for package in PACKAGES:
        # The sdist first, then the wheel from it: an sdist that lacks a file cannot pass.
        session.run(
            "python",
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            str(DIST),
            f"packages/{package}",
            silent=True,
        )
    if faults := _faults(sorted(DIST.glob("*.whl"))):
        session.error("\n".join(faults))
    WHEELS.write_text("".join(f"{package} @ {_wheel(package).as_uri()}\n" for package in PACKAGES))
    session.log(f"{len(PACKAGES)} distributions in {DIST}; no file has two owners")


@nox.session(requires=["wheels"], reuse_venv=False)
def types(session: nox.Session) -> None:
    """Check the types of each distribution, its tests, the examples and the benchmarks, strictly."""
    _install(session, _everything(), *_examples(), group="types")
    for package in CODE:
        # One run for each: two distributions may both have a tests/test_provider.py. Within one, the
        # directory of the tests is the root of their names.
        suite = f"packages/{package}/tests"
        session.run("mypy", f"packages/{package}/src", suite, env={"MYPYPATH": suite})
    for example in sorted(ROOT.glob("examples/*/")):
        # Most are a script with modules beside it, so their directory is the root of their names.
        source = example / "src" if (example / "src").is_dir() else example
        session.run("mypy", str(example), env={"MYPYPATH": str(source)})
    session.run("mypy", "tests-integration", env={"MYPYPATH": "tests-integration"})
    session.run("mypy", "benchmarks", env={"MYPYPATH": "benchmarks"})
    session.run("mypy", "noxfile.py", "docs/_ext")


@nox.session(requires=["wheels"], reuse_venv=False)
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    _install(session, _everything(), group="docs")
    session.run(
        "sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build/html", *session.posargs
    )
    session.log(f"open {ROOT / 'docs/_build/html/index.html'}")


@nox.session(python=PYTHONS, requires=["wheels"], reuse_venv=False)
@nox.parametrize("package", list(CODE), ids=list(CODE))
def tests(session: nox.Session, package: str) -> None:
    """Test one distribution where there is nothing but itself and the core."""
    _install(session, package, group="test")
    doctests = _site_packages(session) / CODE[package]
    _pytest(session, *PARALLEL, "--doctest-modules", f"packages/{package}/tests", str(doctests))


@nox.session(python=PYTHONS, requires=["wheels"], reuse_venv=False)
def integration(session: nox.Session) -> None:
    """Install all distributions together, drive them, and run the examples."""
    _install(session, _everything(), *_examples(), group="test")
    session.run("scalable", "providers")
    systems = [f"--ignore=tests-integration/{system}" for system in SYSTEMS]
    _pytest(session, *PARALLEL, "tests-integration", "examples", *systems)


@nox.session(python=PYTHONS, requires=["wheels"], reuse_venv=False)
@nox.parametrize("system", list(SYSTEMS), ids=list(SYSTEMS))
def systems(session: nox.Session, system: str) -> None:
    """Test one provider on the system that it is for, brought up on this machine."""
    _install_system(session, system)
    processes = SYSTEM_PROCESSES[system]
    beside = (f"--numprocesses={processes}", "--dist=worksteal")
    matrices = f"--ignore=tests-integration/{system}/matrices"
    _pytest(session, f"tests-integration/{system}", matrices, BROKEN, *beside)


@nox.session(requires=["wheels"], default=False, reuse_venv=False)
@nox.parametrize("system", MATRICES, ids=MATRICES)
def matrices(session: nox.Session, system: str) -> None:
    """Test on one system what takes long: many clusters, many ends, long faults."""
    _install_system(session, system)
    _pytest(session, f"tests-integration/{system}/matrices", BROKEN)


def _install_system(session: nox.Session, system: str) -> None:
    # Images are made of what is installed, and containers cannot keep the byte code of what they import.
    session.env["UV_COMPILE_BYTECODE"] = "1"
    brought_up_with = _group(SYSTEM_GROUPS[system]) if system in SYSTEM_GROUPS else []
    # Runs that go on on Slurm begin on this machine.
    beside = ["scalable-local"] if system == "slurm" else []
    _install(session, SYSTEMS[system], *beside, *_examples(), *brought_up_with, group="test")


@nox.session(python=SUPPORTED[0], requires=["wheels"], default=False, reuse_venv=False)
def minimums(session: nox.Session) -> None:
    """Test the core and the providers that run on the oldest dependencies that they accept."""
    _install(session, group="installer")
    ours = ("scalable-core", "scalable-local", "scalable-slurm")
    # Given as a file, the dependencies count as direct; those of a wheel would not.
    direct = [word for package in ours for word in ("-r", f"packages/{package}/pyproject.toml")]
    # What they depend on in turn is no newer than what is known to work.
    newest = DIST / "newest.txt"
    newest.write_text(KNOWN_GOOD.read_text().replace("==", "<="))
    lowest = ("--resolution=lowest-direct", f"--constraint={WHEELS}", f"--constraint={newest}")
    session.run("uv", "pip", "install", *lowest, *ours, *direct, *_group("test"))
    for package in ours:
        _pytest(session, *PARALLEL, f"packages/{package}/tests")


@nox.session(requires=["wheels"], default=False, reuse_venv=False)
def stores(session: nox.Session) -> None:
    """Test results on servers that speak the protocols of S3 and of Google's storage."""
    # s3fs is always a few releases of botocore behind boto3.
    behind = re.compile("^(boto.*|s3transfer)==", re.MULTILINE)
    known_good = DIST / "stores.txt"
    known_good.write_text(behind.sub(r"\1<=", KNOWN_GOOD.read_text()))
    stores = ("s3fs>=2024.3", *_group("aws-account"), "gcsfs>=2024.3", "gcp-storage-emulator")
    needed = ("scalable-core", *stores, *_group("test"))
    session.install(f"--constraint={known_good}", f"--constraint={WHEELS}", *needed)
    suite = "packages/scalable-core/tests/results"
    _pytest(session, f"{suite}/test_buckets.py", f"{suite}/test_store_trouble.py")


@nox.session(default=False, venv_backend="none")
def upstream(session: nox.Session) -> None:
    """Run the suite on the newest releases of everything; with ``-- --pre``, on pre-releases too."""
    versions[:] = ["--upgrade", *session.posargs]
    for name in ("wheels", "types", "docs"):
        session.notify(name, posargs=[])
    for package in CODE:
        session.notify(f"tests-{HERE}({package})", posargs=[])
    for system in SYSTEMS:
        session.notify(f"systems-{HERE}({system})", posargs=[])
    for python in PYTHONS:
        session.notify(f"readme-{python}", posargs=[])
        session.notify(f"integration-{python}", posargs=[])


@nox.session(python=PYTHONS, default=False, reuse_venv=False)
def readme(session: nox.Session) -> None:
    """Do what the README says first, as a newcomer does: on the newest releases."""
    (line,) = (
        line for line in (ROOT / "README.md").read_text().splitlines() if "&& scalable run" in line
    )
    session.install("pip")
    session.run("bash", "-euc", line, external=True)


@nox.session(requires=["wheels"], default=False)
def constraints(session: nox.Session) -> None:
    """Renew ``constraints.txt``: the newest release of everything that sessions install."""
    _install(session, group="installer")
    groups = [f"--group={ROOT / 'pyproject.toml'}:{name}" for name in TOOLS["dependency-groups"]]
    inputs = [DIST / "everything.in", *ROOT.glob("examples/*/requirements.txt")]
    dashboard = f"scalable-core[dashboard] @ {_wheel('scalable-core').as_uri()}"
    inputs[0].write_text(f"{_everything()}\n{dashboard}\n")
    found = session.run(
        *("uv", "pip", "compile", "--quiet", "--no-config", "--universal", "--upgrade"),
        # One file for all: where Pythons or systems need different versions, markers say so.
        *("--python-version", SUPPORTED[0], f"--constraint={WHEELS}"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
        *(f"--no-emit-package={package}" for package in PACKAGES),
        *groups,
        *map(str, inputs),
        silent=True,
    )
    head = "# Made by `nox -s constraints`: versions on which every session has passed.\n"
    KNOWN_GOOD.write_text(head + str(found))


@nox.session(requires=["wheels"], reuse_venv=False, default=False)
def bench(session: nox.Session) -> None:
    """Print the ratios of the benchmarks; ``-- NAME`` runs one of them."""
    _install(session, _everything(), group="test")
    chosen = session.posargs or sorted(
        path.stem for path in (ROOT / "benchmarks").glob("bench_*.py")
    )
    for name in chosen:
        session.run("python", f"benchmarks/{name}.py")
