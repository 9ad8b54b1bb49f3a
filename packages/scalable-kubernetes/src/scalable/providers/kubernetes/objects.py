"""A target as objects of Kubernetes: the DaskCluster, its worker groups, the Secret with its keys. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.providers.kubernetes.names import (
    COMPONENT,
    DASK_COMPONENT,
    OWNER,
    REQUEST,
    group_name,
    labels,
    scheduler_name,
    secret_name,
)
from scalable.providers.kubernetes.request import WorkerRequest
from scalable.providers.kubernetes.template import merge_template
from scalable.providers.labels import dns_label
from scalable.providers.scheduler import scheduler_arguments
from scalable.providers.tls import TlsFiles, tls_arguments
from scalable.providers.worker import server_command, thread_environment, worker_arguments

if TYPE_CHECKING:
    from scalable.providers.kubernetes.options import KubernetesOptions
    from scalable.providers.tls import Credentials

__all__ = [
    "API_VERSION",
    "STAY",
    "Run",
    "dask_cluster",
    "keys_secret",
    "literal",
    "owner_reference",
    "worker_group",
]

API_VERSION = "kubernetes.dask.org/v1"
PORT, HTTP_PORT = 8786, 8787
"""The scheduler's ports for clients and workers, and for the operator."""

MIN_IDLE_TIMEOUT = 30
"""Seconds that the operator waits at least, so that the client of a new cluster can be slow to connect."""

_KEYS = Path("/etc/scalable-tls")

# The operator asks whether the cluster is idle by `distributed.http.scheduler.api`, which is not among Dask's defaults;
# its other way, RPC, has no keys (dask_kubernetes.operator.controller.controller.check_scheduler_idle).
_ROUTES = [
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.proxy",
    "distributed.http.statics",
    "distributed.http.scheduler.api",
]

_ONCE_DIRECTORY = "/scalable"

# A Deployment restarts a container that has ended, and its worker would be a stranger under the old name. Only the
# first start goes through; another one waits until it is removed, so that the end of the first one stays visible.
# (`true`, because a shell ends when the redirection of `:` fails.)
_ONCE = f"""\
set -C
if {{ true > {_ONCE_DIRECTORY}/started; }} 2> /dev/null; then exec "$@"; fi
exec "$1" -c 'import signal; signal.signal(15, lambda *_: exit()); signal.pause()'"""

STAY = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""Annotations that keep autoscalers of nodes from evicting a pod."""

_QUEUE = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Run:
    """A run, for its objects.

    Parameters
    ----------
    name : str
        Its name.
    owner : str
        The user who started it.
    """

    name: str
    owner: str


def dask_cluster(run: Run, image: str, options: KubernetesOptions) -> dict[str, Any]:
    """Return the DaskCluster, which has a scheduler and no workers."""
    ports = (("tcp-comm", PORT), ("http-dashboard", HTTP_PORT))
    arguments = scheduler_arguments(
        port=PORT,
        # A scheduler that ended by itself would be started again: the operator ends it.
        orphan_timeout=0,
        extra=(
            *("--host", "0.0.0.0"),  # noqa: S104 - of a pod, which has nothing else
            *("--dashboard", "--dashboard-address", f":{HTTP_PORT}"),
            *tls_arguments(TlsFiles.within(_KEYS)),
        ),
    )
    memory = str(options.scheduler_memory)
    container = {
        "name": "scheduler",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [*server_command(literal(options.python), "scheduler"), *arguments],
        "env": _env({"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": str(_ROUTES)}),
        "resources": {
            "requests": {"cpu": f"{options.scheduler_cpu}m", "memory": memory},
            "limits": {"memory": memory},
        },
        "ports": [{"name": name, "containerPort": port} for name, port in ports],
        "readinessProbe": {
            "httpGet": {"port": "http-dashboard", "path": "/health"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
        "volumeMounts": [_keys_mount()],
    }
    pod = {
        **_pod_basics(run, options),
        "containers": [container],
        "volumes": [_keys_volume(run)],
    }
    idle = {"idleTimeout": max(int(options.orphan_timeout), MIN_IDLE_TIMEOUT)}
    return {
        "apiVersion": API_VERSION,
        "kind": "DaskCluster",
        "metadata": {
            "name": run.name,
            "labels": labels(run.name),
            "annotations": {OWNER: run.owner},
        },
        "spec": {
            **(idle if options.orphan_timeout else {}),
            "scheduler": {
                "metadata": {"annotations": STAY},
                "spec": pod,
                "service": {
                    "type": "ClusterIP",
                    "selector": {"dask.org/cluster-name": run.name, DASK_COMPONENT: "scheduler"},
                    "ports": [
                        {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
                        for name, port in ports
                    ],
                },
            },
            # The operator requires a default group.
            "worker": {
                "replicas": 0,
                "spec": {"containers": [{"name": "worker", "image": image, "command": ["true"]}]},
            },
        },
    }


def keys_secret(
    run: Run, credentials: Credentials | None, owner: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the Secret with the run's keys, which goes with its DaskCluster.

    Parameters
    ----------
    run : Run
        The run.
    credentials : Credentials or None
        The keys; None leaves them out, for showing the object.
    owner : mapping or None
        The reference to the DaskCluster; None where there is none yet.
    """
    files = TlsFiles.within(_KEYS)
    keys = {}
    if credentials is not None:
        keys = {Path(files.cert).name: credentials.cert, Path(files.key).name: credentials.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(run.name),
            "labels": labels(run.name),
            "annotations": {OWNER: run.owner},
            **({"ownerReferences": [owner]} if owner else {}),
        },
        "stringData": keys,
    }


def owner_reference(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reference to a DaskCluster of what is to go with it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "DaskCluster",
        "name": cluster["metadata"]["name"],
        "uid": cluster["metadata"]["uid"],
    }


def worker_group(
    run: Run,
    request: WorkerRequest,
    *,
    number: int,
    replicas: int,
    request_id: str,
    owner: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the DaskWorkerGroup of one launch.

    Parameters
    ----------
    run : Run
        The run.
    request : WorkerRequest
        The workers of the component.
    number : int
        The launch, counted for each component.
    replicas : int
        Workers. A lower number later would end workers of any group.
    request_id : str
        The launch's id.
    owner : mapping or None
        The reference to the DaskCluster; None where there is none yet.
    """
    queue = {_QUEUE: request.options.queue} if request.options.queue else {}
    own = {**labels(run.name), COMPONENT: dns_label(request.tag), REQUEST: request_id, **queue}
    template = merge_template(_worker_pod(run, request), request.options.pod_template)
    pod_metadata = template.get("metadata", {})
    return {
        "apiVersion": API_VERSION,
        "kind": "DaskWorkerGroup",
        "metadata": {
            "name": group_name(run.name, request.tag, number),
            "labels": {**own, DASK_COMPONENT: "workergroup"},
            "annotations": {OWNER: run.owner},
            **({"ownerReferences": [owner]} if owner else {}),
        },
        "spec": {
            "cluster": run.name,
            "worker": {
                "replicas": replicas,
                "metadata": {
                    # These reach the workers' Deployments and pods.
                    "labels": {**request.labels, **pod_metadata.get("labels", {}), **own},
                    "annotations": {**pod_metadata.get("annotations", {}), **STAY},
                },
                "spec": template["spec"],
            },
        },
    }


def _worker_pod(run: Run, request: WorkerRequest) -> dict[str, Any]:
    """Return the template of a worker's pod, before that of the user."""
    options = request.options
    # The same namespace, and whatever the cluster's domain is.
    address = f"tls://{scheduler_name(run.name)}:{PORT}"
    arguments = worker_arguments(
        address,
        tag=request.tag,
        slots=request.slots,
        memory=request.memory_limit,
        directory=literal(options.local_directory),
        preload=literal(request.preload) if request.preload else None,
        extra=(
            *("--protocol", "tls", *tls_arguments(TlsFiles.within(_KEYS))),
            # The operator's name of the worker's Deployment.
            *("--name", "$(DASK_WORKER_NAME)"),
        ),
    )
    command = [*server_command(literal(options.python), "worker"), *arguments]
    env = {
        **thread_environment(request.cpus, request.slots),
        **options.env,
        **request.env,
        # Else the operator sets one that is not under TLS.
        "DASK_SCHEDULER_ADDRESS": address,
    }
    volumes, mounts = request.volumes
    container = {
        "name": "worker",
        "image": request.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _ONCE, "sh", *command],
        "env": _env(env),
        "resources": request.resources,
        "volumeMounts": [_keys_mount(), _once_mount(), *mounts],
    }
    spec = {
        **_pod_basics(run, options),
        "containers": [container],
        "volumes": [_keys_volume(run), {"name": "scalable-once", "emptyDir": {}}, *volumes],
        "nodeSelector": dict(options.node_selector),
        "tolerations": [each.as_object() for each in options.tolerations],
    }
    if options.worker_service_account:
        spec["serviceAccountName"] = options.worker_service_account
        spec["automountServiceAccountToken"] = True
    return {"spec": spec}


def _pod_basics(run: Run, options: KubernetesOptions) -> dict[str, Any]:
    return {
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }


def _keys_volume(run: Run) -> dict[str, Any]:
    return {"name": "scalable-tls", "secret": {"secretName": secret_name(run.name)}}


def _keys_mount() -> dict[str, Any]:
    return {"name": "scalable-tls", "mountPath": str(_KEYS), "readOnly": True}


def _once_mount() -> dict[str, Any]:
    return {"name": "scalable-once", "mountPath": _ONCE_DIRECTORY}


def _env(env: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": key, "value": literal(value)} for key, value in env.items()]


def literal(text: str) -> str:
    """Return a text that Kubernetes leaves as it is: a dollar sign would begin the reference to a variable."""
    return text.replace("$", "$$")
