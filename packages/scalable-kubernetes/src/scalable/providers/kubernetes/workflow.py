"""A workflow that runs inside the cluster, as objects of Kubernetes: a Job, and a Secret. Pure functions."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scalable.errors import SessionError
from scalable.providers.kubernetes.mounts import mounted
from scalable.providers.kubernetes.names import MANAGED, OWNER, RUN
from scalable.providers.kubernetes.objects import STAY, Run, literal

if TYPE_CHECKING:
    from scalable.providers.base import Submission
    from scalable.providers.kubernetes.options import KubernetesOptions

__all__ = ["CONTAINER", "GRACE", "RESUMED", "workflow_job", "workflow_name", "workflow_secret"]

CONTAINER = "workflow"
"""The name of the container in which it runs."""

RESUMED: Mapping[str, Any] = {"spec": {"suspend": False}}
"""What makes a Job start, once its Secret is there."""

_MAX_BYTES = 700_000
"""Of a Secret, whose size is limited to 1 MiB with its content in base 64."""

_FILES = "files.zip"
_SECRET, _DIRECTORY = "/etc/scalable-workflow", "/scalable-workflow"

# Into an empty directory, in which the workflow also runs: the record of the run is written there.
_RUN = f"""\
cd {_DIRECTORY} && "$0" -m zipfile -e {_SECRET}/{_FILES} . && exec "$0" -m scalable.cli "$@\""""

GRACE = 150
"""Seconds that it has for the removal of its cluster, when it is to end."""


def workflow_name(run: str) -> str:
    """Return the name of a workflow's Job and of its Secret."""
    return f"{run}-workflow"


def _metadata(run: Run) -> dict[str, Any]:
    return {
        "name": workflow_name(run.name),
        "labels": {**MANAGED, RUN: run.name},
        "annotations": {OWNER: run.owner},
    }


def workflow_secret(run: Run, submission: Submission, owner: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Secret with the files of a workflow, and the variables that its manifest takes.

    Raises
    ------
    SessionError
        The files are too large.
    """
    packed = _zip(submission.files)
    if len(packed) > _MAX_BYTES:
        raise SessionError(
            f"the modules beside the workflow are too large for --in-cluster: {len(packed)} bytes, "
            f"packed, where Kubernetes takes {_MAX_BYTES}; build them into the image"
        )
    data = {f"variable-{n}": v.encode() for n, v in enumerate(submission.variables.values())}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**_metadata(run), "ownerReferences": [dict(owner)]},
        "data": {
            name: base64.b64encode(content).decode()
            for name, content in {**data, _FILES: packed}.items()
        },
    }


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def workflow_job(
    run: Run, submission: Submission, image: str, options: KubernetesOptions
) -> dict[str, Any]:
    """Return the Job of a workflow, which is started once: a workflow that has failed is not run again.

    It is suspended: a pod that nobody makes the Secret for would keep its place on a node for ever.
    """
    own, secret = options.workflow, workflow_name(run.name)
    volumes, places = mounted(own.mounts)
    memory = str(own.memory)
    container = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", literal(_RUN), literal(options.python)],
        "args": [literal(each) for each in submission.arguments],
        "env": [
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            *(
                {
                    "name": name,
                    "valueFrom": {"secretKeyRef": {"name": secret, "key": f"variable-{number}"}},
                }
                for number, name in enumerate(submission.variables)
            ),
        ],
        "resources": {
            "requests": {"cpu": f"{own.cpu}m", "memory": memory},
            "limits": {"memory": memory},
        },
        "volumeMounts": [
            {"name": "scalable-secret", "mountPath": _SECRET, "readOnly": True},
            {"name": "scalable-directory", "mountPath": _DIRECTORY},
            *places,
        ],
    }
    files = {"secretName": secret, "items": [{"key": _FILES, "path": _FILES}]}
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": own.service_account,
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        "terminationGracePeriodSeconds": GRACE,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [
            {"name": "scalable-secret", "secret": files},
            {"name": "scalable-directory", "emptyDir": {}},
            *volumes,
        ],
    }
    labels = {**MANAGED, RUN: run.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(run),
        "spec": {
            "backoffLimit": 0,
            "suspend": True,
            "template": {"metadata": {"labels": labels, "annotations": STAY}, "spec": pod},
        },
    }
