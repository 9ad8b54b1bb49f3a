"""``scalable run --in-cluster``: the workflow at its target, beside the scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.errors import SessionError

if TYPE_CHECKING:
    from scalable.providers.base import Submission
    from scalable.session import ScalableSession

__all__ = ["run_inside", "submission"]

_MANIFEST = "scalable.yaml"


def submission(session: ScalableSession, workflow: Path, arguments: Sequence[str]) -> Submission:
    """Return what is to run at the session's target.

    Raises
    ------
    SessionError
        The manifest lists modules, which may be anywhere on this machine.
    ModulesError
        The workflow's modules cannot be read, or are too large.
    """
    from scalable.modules.archive import MAX_BYTES, MAX_FILES, check_bounds, list_importable
    from scalable.providers.base import Submission

    if session.manifest.project.modules is not None:
        raise SessionError(
            "--in-cluster sends the modules beside the workflow, not those of project.modules; "
            "build these into the image, and remove project.modules"
        )
    workflow = workflow.resolve()
    files = check_bounds(list_importable(workflow.parent), MAX_BYTES, MAX_FILES)
    contents = {str(name): path.read_bytes() for name, path in files.items()}
    contents[workflow.name] = workflow.read_bytes()
    contents[_MANIFEST] = _manifest(session).encode()
    where = ("run", _MANIFEST, f"--target={session.target}", f"--workflow={workflow.name}")
    return Submission(contents, [*where, "--", *arguments], session.manifest.variables)


def _manifest(session: ScalableSession) -> str:
    """Return the manifest as JSON, which is YAML: with ``${VAR}`` as written, and the overlay merged."""
    document = dict(session.spec.raw_manifest)
    # It may have been another overlay than the target's own.
    target = {k: v for k, v in document["targets"][session.target].items() if k != "overlay"}
    return json.dumps({**document, "targets": {session.target: target}}, ensure_ascii=False)


def run_inside(session: ScalableSession, what: Submission, write: Callable[[str], object]) -> int:
    """Run it there, and return its exit status.

    Raises
    ------
    SessionError
        The target's provider has no such ability, or it could not be started there.
    """
    from scalable.providers.base import RunsInside

    provider = session.provider
    if not isinstance(provider, RunsInside):
        raise SessionError(
            f"provider {provider.name!r} cannot run a workflow at its target; leave out --in-cluster"
        )
    return provider.run_inside(session.spec, what, write)
