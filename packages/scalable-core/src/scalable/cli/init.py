"""``scalable init``: files to start from."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import print_json, print_text

__all__ = ["init"]

_FILES = ("scalable.yaml", "workflow.py")


@click.command()
@click.argument(
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="[DIRECTORY]",
)
@json_option
@debug_option
def init(directory: Path, as_json: bool) -> None:
    """Write a manifest and a workflow to start from.

    The manifest has a target for each provider that is installed. Nothing is overwritten: if either file is in
    DIRECTORY already, neither is written.
    """
    from scalable.providers.registry import iter_provider_names

    there = [name for name in _FILES if (directory / name).exists()]
    if there:
        raise Failure(
            f"{directory / there[0]} exists, and nothing is overwritten; choose another directory",
            USAGE,
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            content = _read(name)
            if name == "scalable.yaml":
                content = content.replace("@TARGETS@\n", write_targets(iter_provider_names()))
            # "x", so that a file that has appeared in the meantime is not overwritten either.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise Failure(
            f"{error.filename}: {error.strerror}; choose a directory that you can write to", USAGE
        ) from error
    written = [str(directory / name) for name in _FILES]
    if as_json:
        print_json({"written": written})
    else:
        manifest, workflow = written
        print_text(f"wrote {manifest} and {workflow}; run them with:")
        print_text(f"  {shlex.join(['scalable', 'run', manifest, '--workflow', workflow])}")


def write_targets(installed: Iterable[str]) -> str:
    """Return the targets of a new manifest: of the installed providers, and one more as a comment.

    Parameters
    ----------
    installed : iterable of str
        The names of the providers. Without any that is known here, the target is a local one.

    Examples
    --------
    >>> for line in write_targets(["slurm"]).splitlines():
    ...     if "provider" in line or "pip" in line:
    ...         print(line)
        provider: slurm
      # local:                     # pip install scalable-local
      #   provider: local
    """
    targets = {}
    for text in _read("targets.yaml").strip().split("\n\n"):
        provider = text.splitlines()[1].partition("provider: ")[2]
        targets[provider] = text.splitlines()
    known = set(installed) & targets.keys() or {"local"}
    shown = [provider for provider in targets if provider in known]
    other = next((provider for provider in ("slurm", "local") if provider not in known), None)
    lines = []
    for provider in shown:
        lines += [*(f"  {line}" for line in targets[provider]), ""]
    if other is not None:
        head, *rest = targets[other]
        hint = f"# {head}".ljust(29) + f"# pip install scalable-{other}"
        lines += [f"  {hint}", *(f"  # {line}" for line in rest), ""]
    return "\n".join(lines) + "\n"


def _read(name: str) -> str:
    from importlib.resources import files

    return files("scalable.cli").joinpath("starter", name).read_text(encoding="utf-8")
