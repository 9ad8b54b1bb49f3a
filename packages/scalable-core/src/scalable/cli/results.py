"""``scalable results``: what the store has, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scalable.cli.failures import FAILED, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem, print_status, print_text

if TYPE_CHECKING:
    from scalable.results.store.storage import Store

__all__ = ["results"]

F = TypeVar("F", bound=Callable[..., Any])

_LEFT_AFTER = 86_400
"""Seconds after which what a writer has begun counts as left behind."""


@click.group()
def results() -> None:
    """Show and remove the results that tasks have kept.

    The store is that of the manifest's `project.results`, unless --store names another one. Only `show` and `why` take
    a part of a name, if it is enough. Nothing is unpickled.
    """


def _store_options(command: F) -> F:
    """Add the options that say which store."""
    for add in (
        click.option("--store", metavar="URL", help="Directory or URL of the store."),
        click.option("--trust", is_flag=True, help="Read a store of another user, too."),
        click.option("-t", "--target", metavar="NAME", help="Target whose overlay is merged."),
        click.option(
            "-m",
            "--manifest",
            metavar="FILE",
            help="Manifest whose store it is; by default $SCALABLE_MANIFEST, or scalable.yaml.",
        ),
        json_option,
        debug_option,
    ):
        command = add(command)
    return command


def _open(manifest: str | None, target: str | None, trust: bool, store: str | None) -> Store:
    from scalable.errors import ResultStoreError
    from scalable.manifest.storage import results_url
    from scalable.results.reuse import open_store
    from scalable.session import ScalableSession

    if store is not None:
        return open_store(store, trusted=trust)
    session = ScalableSession.from_yaml(manifest, target=target)
    source = Path(session.manifest.source or "scalable.yaml").resolve()
    url = results_url(session.manifest, source.parent)
    if url is None:
        raise ResultStoreError(
            "the manifest keeps no results; set project.results in it, or give --store"
        )
    trusted = trust or session.manifest.project.trust_results
    return open_store(url, trusted=trusted, redact=session.manifest.redact)


@results.command("list")
@click.argument("task", required=False)
@_store_options
def list_(task: str | None, as_json: bool, **where: Any) -> None:
    """List the results: a line for each version of a task, or for each result of TASK."""
    store = _open(**where)
    found = [(name, size) for name, size in store.results(_checked(task))]
    if as_json:
        print_json([{"name": name, "size": size} for name, size in found])
    elif task is not None:
        print_text(as_table(("result", "bytes"), found))
    else:
        versions: dict[str, list[int]] = {}
        for name, size in found:
            versions.setdefault(name.rpartition("/")[0], []).append(size)
        rows = [[version, len(sizes), sum(sizes)] for version, sizes in versions.items()]
        print_text(as_table(("version", "results", "bytes"), rows))


@results.command()
@click.argument("name")
@_store_options
def show(name: str, as_json: bool, **where: Any) -> None:
    """Show what is known of the result NAME: when, where and with which versions it was computed."""
    store = _open(**where)
    header = store.read_header(_resolve(store, name))
    if as_json:
        print_json(header)
        return
    rows = [
        ("name", header["name"]),
        ("type", header["type"]),
        ("computed", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header["created"]))),
        ("took", f"{header.get('seconds', 0):.1f} s"),
        ("on", header.get("host", "")),
        ("bytes", sum(header["frames"])),
        ("with", ", ".join(f"{key} {value}" for key, value in header["versions"].items())),
        ("arguments", ", ".join(header.get("arguments", {}))),
    ]
    for key, value in rows:
        print_text(f"{key:<10} {value}")


@results.command()
@click.argument("name")
@_store_options
def why(name: str, as_json: bool, **where: Any) -> None:
    """Show what the name of the result NAME is made of, and what other versions of its task differ in."""
    store = _open(**where)
    name = _resolve(store, name)
    about = _describe(store, name)
    others = _others(store, name, about)
    if as_json:
        print_json(
            {
                "name": name,
                **about,
                "others": [
                    {"name": other, "differences": [asdict(each) for each in differences]}
                    for other, differences in others
                ],
            }
        )
        return
    print_text(name)
    for label, digest in (about.get("code") or {}).items():
        print_text(f"  code {label}  {digest}")
    for label, digest in (about.get("arguments") or {}).items():
        print_text(f"  argument {label}  {digest}")
    print_text(f"  image {about.get('image') or 'none'}")
    print_text(f"  version {', '.join(about.get('versions') or []) or 'none'}")
    if about.get("ignored"):
        print_text(f"  ignored: {', '.join(about['ignored'])}")
    for other, differences in others:
        print_text(f"\ncompared with {other}:")
        for difference in differences:
            print_text(f"  {difference}")
            for line in difference.diff.splitlines():
                print_text(f"    {line}")


@results.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--older-than", metavar="TIME", help="All that are older: 30d, 12h.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@_store_options
def rm(
    names: tuple[str, ...],
    older_than: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Remove results: those that are NAMEd, or all results of a task or a version."""
    from scalable.manifest.units import parse_duration
    from scalable.results.store.outputs import remove_outputs

    if bool(names) + bool(older_than) + everything != 1:
        raise click.UsageError("name results or tasks, or give --older-than or --all")
    try:
        age = parse_duration(older_than) if older_than else 0
    except ValueError as error:
        raise click.UsageError(f"--older-than {error}") from None
    store = _open(**where)
    found = [name for name, _ in store.results()]
    if names:
        found = [name for name in found if any(_is_below(name, each) for each in names)]
    elif older_than:
        found = [name for name in found if _is_older(store, name, age)]
    if found and not yes:
        click.confirm(f"Remove {len(found)} results?", abort=True, err=True)
    store.remove_results(found)
    for name in found:
        remove_outputs(store, name)
    for partial in [*store.partial()]:
        if time.time() - store.modified(partial) > _LEFT_AFTER:
            store.remove(partial)
    if as_json:
        print_json({"removed": found})
    else:
        print_status(f"removed {len(found)} results")


@results.command()
@click.argument("task", required=False)
@_store_options
@click.pass_context
def verify(context: click.Context, /, task: str | None, as_json: bool, **where: Any) -> None:
    """Read all results, or those of TASK, and compare them with their checksums.

    The exit status is 1 if one is damaged. It is computed again by the next run that needs it.
    """
    from scalable.results.store.outputs import INDEX, check_outputs

    store = _open(**where)
    good, damaged = 0, []
    for name, _ in store.results(_checked(task)):
        try:
            store.check_result(name)
            if store.read_code(name).get("outputs") or store.size(name + INDEX) >= 0:
                check_outputs(store, name, content=True)
        except OSError as error:
            damaged.append({"name": name, "error": str(error)})
            print_problem(str(error))
        else:
            good += 1
    if as_json:
        print_json({"good": good, "damaged": damaged})
    else:
        print_status(f"{good} results are good, {len(damaged)} are damaged")
    if damaged:
        context.exit(FAILED)


@results.command()
@click.argument("name")
@click.option("--to", metavar="DIRECTORY", help="Write them below this directory.")
@_store_options
def restore(name: str, to: str | None, as_json: bool, **where: Any) -> None:
    """Write the files of the result NAME where its task had written them, relative to the current directory."""
    from scalable.results.store.outputs import restore_outputs

    store = _open(**where)
    try:
        paths = restore_outputs(store, _resolve(store, name), to)
    except OSError as error:
        raise Failure(str(error), FAILED) from None
    if as_json:
        print_json(paths)
    else:
        for output, path in paths.items():
            print_text(f"{output:<10} {path}")


def _checked(task: str | None) -> str:
    """Return the name of a task or a version of it, which leads nowhere out of the store."""
    if task is not None and not {*task.rstrip("/").split("/")}.isdisjoint({"", ".", ".."}):
        raise click.UsageError(f"{task!r} is not the name of a task or a version of one")
    return task or ""


def _resolve(store: Store, part: str) -> str:
    """Return the name of the one result whose name contains a text."""
    from scalable.errors import ResultStoreError

    found = [name for name, _ in store.results() if part in name]
    if part in found:
        return part
    if len(found) != 1:
        what = "no result has" if not found else f"{len(found)} results have"
        raise ResultStoreError(f"{what} {part!r} in the name; see `scalable results list`")
    return found[0]


def _describe(store: Store, name: str) -> dict[str, Any]:
    """Return what a result was computed from."""
    return {**store.read_code(name), "arguments": store.read_header(name).get("arguments", {})}


def _others(store: Store, name: str, about: dict[str, Any]) -> Iterable[tuple[str, list[Any]]]:
    """Return one result of each other version of the task, that of the same arguments if there is one."""
    from scalable.results.comparing import compare

    task, version, arguments = name.split("/")
    chosen: dict[str, str] = {}
    for other, _ in store.results(task):
        _, of, its = other.split("/")
        if of != version and (of not in chosen or its == arguments):
            chosen[of] = other
    return [(other, compare(_describe(store, other), about)) for other in chosen.values()]


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path.rstrip('/')}/")


def _is_older(store: Store, name: str, seconds: float) -> bool:
    from scalable.results.store.storage import StoreError

    try:
        created = float(store.read_header(name)["created"])
    except StoreError:
        created = store.modified(f"{name}.result")  # damaged: of no use, but of some age
    return time.time() - created > seconds
