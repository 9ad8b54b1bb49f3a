"""A target as requests to Compute Engine: machines of scheduler and workers, and what they do when they boot.

Pure functions. A request is the body of bulkInsert as the REST API has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from scalable.providers.cloud.gcp.keys import Keys
from scalable.providers.cloud.gcp.machines import machine_named
from scalable.providers.cloud.gcp.names import REQUEST, TAG, Run
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.request import WorkerRequest
from scalable.providers.labels import dns_label
from scalable.providers.scheduler import scheduler_arguments
from scalable.providers.tls import KEY_VARIABLES, dask_environment
from scalable.providers.worker import (
    server_command,
    thread_environment,
    watched_worker,
    worker_arguments,
)

__all__ = [
    "ENDED",
    "MAX_METADATA",
    "PORT",
    "boot_image",
    "metadata_size",
    "scheduler_body",
    "subnetwork",
    "worker_body",
]

PORT = 8786
"""The scheduler's port."""

MAX_METADATA = 256 * 1024
"""Bytes of one value: https://cloud.google.com/compute/docs/metadata/setting-custom-metadata#limitations."""

ENDED = "scalable: ended with status"
"""What a machine writes to its console when its container has ended."""

_KEY = "scalable-tls-key"
_COS = "projects/cos-cloud/global/images/family/cos-stable"
_READS = 36
"""How often the key is asked for, with pauses of 5 seconds, while a permission does not take effect yet."""
_LINGER = 60
"""Seconds for which a machine whose container has failed stays, because a console is readable as long as it runs."""
_BOOT_LIMIT = 3600
"""Seconds for the pull of an image."""
_NOTICED_STOP = 30
"""Seconds between SIGTERM and SIGKILL for a container on spare capacity, instead of Docker's 10: all that there are
from the notice to the end. https://cloud.google.com/compute/docs/instances/preemptible#preemption-process"""

_TOKEN = (
    "token() { ask service-accounts/default/token | "  # noqa: S105 - how it is asked for
    'sed -n \'s/.*"access_token" *: *"\\([^"]*\\)".*/\\1/p\'; }'
)
_ASK = (
    'ask() { curl -sf --retry 5 -H "Metadata-Flavor: Google" '
    '"http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/$1"; }'
)


def _script(
    *,
    image: str,
    command: Sequence[str],
    env: Mapping[str, str],
    keys: Keys,
    gpus: int = 0,
    spot: bool = False,
) -> str:
    """Return what a machine runs as it boots: it starts a container, and shuts down when that has ended.

    The private key reaches the container through the environment of ``docker``, so that no command line has it.
    ``$NAME`` in `command` stands for the machine's name.
    """
    quoted = shlex.quote
    everything = {**env, **dask_environment(keys.certificate)}
    options = [
        *("--rm", "--network=host"),
        *(("--gpus=all",) if gpus else ()),
        *((f"--stop-timeout={_NOTICED_STOP}",) if spot else ()),
        *(f"-e {quoted(f'{name}={value}')}" for name, value in everything.items()),
        *(f"-e {name}" for name in KEY_VARIABLES),
        "--entrypoint=env",
    ]
    words = ['"$NAME"' if word == "$NAME" else quoted(word) for word in command]
    registry = image.partition("/")[0]
    # Nobody else gets the token.
    login, is_private = ":", registry == "gcr.io" or registry.endswith((".pkg.dev", ".gcr.io"))
    if is_private:
        login = f"token | docker login -u oauth2accesstoken --password-stdin https://{registry}"
    return "\n".join(
        [
            "#!/bin/bash",
            _ASK,
            *([_TOKEN] if is_private or keys.secret else []),
            # Such as an image that cannot be pulled; see `_LINGER`.
            f'end() {{ s=$?; echo "{ENDED} $s"; [ $s = 0 ] || sleep {_LINGER}; shutdown -h now; }}',
            "trap end EXIT",
            # A system that shuts down tells all that runs, and bash would not wait for the container.
            "trap : TERM",
            "set -eu -o pipefail",
            "HOME=$(mktemp -d); export HOME; NAME=$(ask name)",
            *(_read_secret(keys.secret) if keys.secret else [f"KEY=$(ask attributes/{_KEY})"]),
            "export " + " ".join(f'{name}="$KEY"' for name in KEY_VARIABLES),
            # Container-Optimized OS lets only ssh in; who may connect at all is up to the firewall of the network.
            "iptables -w -A INPUT -p tcp -j ACCEPT || true",
            "command -v docker >/dev/null || { apt-get update -q && apt-get install -y -q docker.io; }",
            login,
            f"timeout {_BOOT_LIMIT} docker pull -q {quoted(image)}",
            f"docker run {' '.join(options)} {quoted(image)} {' '.join(words)}",
            "",
        ]
    )


def _read_secret(url: str) -> list[str]:
    """Return the lines that read the key from Secret Manager. No command line has the token.

    A permission takes effect after a while: https://cloud.google.com/iam/docs/access-change-propagation.
    """
    value = 's/.*"data" *: *"\\([^"]*\\)".*/\\1/p'
    read = f"curl -s --retry 5 -H @- {shlex.quote(url)}"
    return [
        f'secret() {{ printf "Authorization: Bearer %s" "$(token)" | {read} | tee "$HOME/told" | '
        f"sed -n {shlex.quote(value)} | base64 -d; }}",
        f'KEY=; for i in $(seq {_READS}); do KEY=$(secret) && [ -n "$KEY" ] && break; sleep 5; done',
        '[ -n "$KEY" ] || { echo "the run\'s key cannot be read: $(tr -s "\\n " "  " < "$HOME/told")"; exit 1; }',
    ]


def metadata_size(body: Mapping[str, Any]) -> int:
    """Return the bytes of the largest value in the metadata of a request's machines."""
    items = body["instanceProperties"]["metadata"]["items"]
    return max(len(each["value"].encode()) for each in items)


def boot_image(options: GCPOptions) -> str:
    """Return the machine image of the machines."""
    return options.boot_image or _COS


def subnetwork(options: GCPOptions, project: str, region: str) -> str:
    """Return the path of the subnetwork.

    Examples
    --------
    >>> subnetwork(GCPOptions(network_project="host-project"), "climate-lab", "us-east1")
    'projects/host-project/regions/us-east1/subnetworks/default'
    """
    name = options.subnetwork or options.network.rpartition("/")[2]
    if "/" in name:
        return name
    return f"projects/{options.network_project or project}/regions/{region}/subnetworks/{name}"


def scheduler_body(
    run: Run, options: GCPOptions, network: str, name: str, image: str, keys: Keys
) -> dict[str, Any]:
    """Return the request for the scheduler's machine, which is never on spare capacity.

    Parameters
    ----------
    run, options : Run, GCPOptions
        The run, and the target's options.
    network, name, image : str
        Its subnetwork, the machine's name, and the container's image.
    keys : Keys
        The run's keys.
    """
    arguments = scheduler_arguments(port=PORT, orphan_timeout=options.orphan_timeout)
    command = [*server_command(options.python, "scheduler"), *arguments]
    script = _script(image=image, command=command, env={}, keys=keys)
    properties = _properties(
        options, network, options.scheduler_machine_type, script, keys, run.all_labels
    )
    return _bulk([name], properties)


def worker_body(
    run: Run,
    options: GCPOptions,
    network: str,
    request: WorkerRequest,
    *,
    names: Sequence[str],
    request_id: str,
    scheduler: str,
    keys: Keys,
) -> dict[str, Any]:
    """Return the request for machines of a component's workers.

    Parameters
    ----------
    run, options, network : Run, GCPOptions, str
        The run, the target's options, and its subnetwork.
    request : WorkerRequest
        The worker.
    names : sequence of str
        Names of the machines.
    request_id : str
        The launch.
    scheduler : str
        The scheduler's address for workers.
    keys : Keys
        The run's keys.
    """
    arguments = worker_arguments(
        scheduler,
        tag=request.tag,
        slots=request.slots,
        memory=request.memory,
        directory="/tmp",  # noqa: S108 - of a container that nobody else uses
        preload=request.preload,
        extra=("--protocol", "tls"),
    )
    watched = watched_worker(PORT, silence=options.silence, through_notice=True)
    program = f"import sys\ncommand = sys.argv[1:]\n{watched}"
    script = _script(
        image=request.image,
        command=[
            *([options.python, "-P", "-c", program] if options.spot else ()),
            *(*server_command(options.python, "worker"), *arguments, "--name", "$NAME"),
        ],
        env={**thread_environment(request.cpus, request.slots), **request.env},
        keys=keys,
        gpus=request.gpus,
        spot=options.spot,
    )
    labels = {
        **request.labels,
        **run.all_labels,
        TAG: dns_label(request.tag)[:63],
        REQUEST: request_id,
    }
    properties = _properties(
        options, network, request.machine.name, script, keys, labels, spot=options.spot
    )
    if request.attached:
        kind, count = request.attached
        properties["guestAccelerators"] = [{"acceleratorType": kind, "acceleratorCount": count}]
    if request.gpus:
        properties["scheduling"]["onHostMaintenance"] = "TERMINATE"
    return _bulk(names, properties)


def _bulk(names: Sequence[str], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "count": str(len(names)),
        "minCount": "1",
        "perInstanceProperties": {name: {} for name in names},
        "instanceProperties": properties,
    }


def _properties(
    options: GCPOptions,
    network: str,
    machine: str,
    script: str,
    keys: Keys,
    labels: Mapping[str, str],
    *,
    spot: bool = False,
) -> dict[str, Any]:
    disk: dict[str, Any] = {
        "sourceImage": boot_image(options),
        "diskSizeGb": str(options.disk_gb),
        "labels": dict(labels),
    }
    if machine_named(machine).disk == "pd-balanced":  # the other one is the series' own
        disk["diskType"] = "pd-balanced"
    metadata = {"startup-script": script, **({} if keys.secret else {_KEY: keys.private})}
    interface: dict[str, Any] = {"subnetwork": network}
    if options.external_ips:
        interface["accessConfigs"] = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    return {
        "machineType": machine,
        "labels": dict(labels),
        "tags": {"items": ["scalable"]},
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
        "networkInterfaces": [interface],
        "serviceAccounts": [
            {
                "email": options.service_account,
                "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            }
        ],
        "metadata": {"items": [{"key": name, "value": text} for name, text in metadata.items()]},
        "scheduling": {
            "provisioningModel": "SPOT" if spot else "STANDARD",
            "automaticRestart": False,
            **({"onHostMaintenance": "TERMINATE"} if spot else {}),
            "maxRunDuration": {"seconds": str(int(options.lifetime))},
            "instanceTerminationAction": "DELETE",
        },
    }
