"""A target as requests to EC2: instances of scheduler and workers, and what they do when they boot. Pure functions."""

from __future__ import annotations

import gzip
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scalable.providers.cloud.aws.names import (
    COMPONENT,
    REQUEST,
    Run,
    key_parameter,
    log_group,
    resource_name,
    upper_tags,
)
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.request import WorkerRequest
from scalable.providers.cloud.aws.tasks import (
    PORT,
    SCHEDULER,
    MachineImage,
    Place,
    Request,
)
from scalable.providers.rendering import redacted
from scalable.providers.scheduler import scheduler_arguments
from scalable.providers.tls import KEY_VARIABLES, dask_environment
from scalable.providers.worker import (
    server_command,
    thread_environment,
    watched_worker,
    worker_arguments,
)

__all__ = [
    "ECR",
    "MAX_USER_DATA",
    "boot_script",
    "instance_log_stream",
    "run_scheduler_instance",
    "run_worker_instances",
    "scheduler_script",
    "shown_user_data",
    "user_data",
    "worker_script",
]

MAX_USER_DATA = 16384
"""Bytes: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html."""

_BOOT_LIMIT = 3600
"""Seconds for each step of booting that depends on others, such as the pull of an image."""

# The script runs at the first boot of an instance only. After another one, such as that by which AWS recovers an
# instance whose host has failed, nothing would end it: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-recover.html.
_END_AT_SECOND_BOOT = (
    "if [ -e /var/lib/cloud/instance/scalable ]; then shutdown -h now; "
    "else touch /var/lib/cloud/instance/scalable; fi"
)

ECR = re.compile(
    r"(?P<account>[0-9]{12})\.dkr\.ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.(com|com\.cn|eu)"
)
"""A registry of AWS: https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html."""

_NO_FOLDING = 2**30
"""Characters of a line of YAML."""

_METADATA = "http://169.254.169.254/latest"


def boot_script(
    run: Run,
    place: Place,
    *,
    part: str,
    image: str,
    command: Sequence[str],
    env: Mapping[str, str],
    gpus: int = 0,
) -> str:
    """Return what an instance runs as it boots: it starts a container, and ends with it.

    However the script ends, the instance shuts down, which terminates it. The private key is read by the instance's
    role, and reaches the container through the environment of ``docker``, so that no command line has it.

    Parameters
    ----------
    run, place : Run, Place
        The run, and where its instances are.
    part : str
        The component, or what stands for the scheduler.
    image : str
        The container's image.
    command : sequence of str
        What the container runs. ``$ID`` stands for the instance's id.
    env : mapping of str to str
        Its variables.
    gpus : int
        Whether it needs GPUs.
    """
    quoted = shlex.quote
    everything = {**env, **dask_environment(place.certificate)}
    registry = image.partition("/")[0]
    options = [
        *("--rm", "--network=host"),
        *(("--gpus=all",) if gpus else ()),
        "--log-driver=awslogs",
        f"--log-opt=awslogs-region={place.region}",
        f"--log-opt=awslogs-group={log_group(run.name)}",
        '--log-opt=awslogs-stream="$STREAM"',
        *(f"-e {quoted(f'{name}={value}')}" for name, value in everything.items()),
        *(f"-e {name}" for name in KEY_VARIABLES),
        "--entrypoint=env",
    ]
    words = ['"$ID"' if word == "$ID" else quoted(word) for word in command]
    login = ":"
    if ecr := ECR.fullmatch(registry):  # nobody else gets the password
        # It is valid in the region of the registry only.
        password = f"aws ecr get-login-password --region {quoted(ecr['region'])}"
        login = f"{password} | docker login --username AWS --password-stdin {quoted(registry)}"
    return "\n".join(
        [
            "trap 'shutdown -h now' EXIT",
            "set -eu",
            f"export AWS_DEFAULT_REGION={quoted(place.region)}",
            # All instances of a launch read the key at once.
            "export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=10",
            f"TOKEN=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 600' {_METADATA}/api/token)",
            f'INSTANCE=$(curl -sf -H "X-aws-ec2-metadata-token: $TOKEN" {_METADATA}/meta-data/instance-id)',
            f'ID={quoted(part)}-"$INSTANCE"',
            f'STREAM={quoted(part)}/"$INSTANCE"',
            f"command -v docker > /dev/null || timeout {_BOOT_LIMIT} dnf install -y -q docker",
            "systemctl start docker",
            f"KEY=$(aws ssm get-parameter --name {quoted(key_parameter(run.name))} --with-decryption "
            "--query Parameter.Value --output text)",
            "export " + " ".join(f'{name}="$KEY"' for name in KEY_VARIABLES),
            login,
            f"timeout {_BOOT_LIMIT} docker pull -q {quoted(image)}",
            f"docker run {' '.join(options)} {quoted(image)} {' '.join(words)}",
        ]
    )


def user_data(script: str) -> bytes:
    """Return a boot script as cloud-init takes it, which unpacks it by itself."""
    config = {"bootcmd": [_END_AT_SECOND_BOOT], "runcmd": [script]}
    return gzip.compress(_cloud_config(config).encode(), mtime=0)


def shown_user_data(data: bytes, redact: Callable[[str], str]) -> str:
    """Return user data as text, without the values of variables.

    They are looked for in the script itself: its quotes, and those of YAML around them, are no spelling of a value.
    """
    import yaml

    return _cloud_config(redacted(yaml.safe_load(gzip.decompress(data)), redact))


def _cloud_config(config: Mapping[str, Any]) -> str:
    import yaml  # as cloud-init reads it: JSON has other escapes

    return "#cloud-config\n" + yaml.safe_dump(config, default_style='"', width=_NO_FOLDING)


def scheduler_script(run: Run, place: Place, image: str, options: AWSOptions) -> str:
    """Return the boot script of the scheduler's instance."""
    arguments = scheduler_arguments(port=PORT, orphan_timeout=options.orphan_timeout)
    command = [*server_command(options.python, "scheduler"), *arguments]
    return boot_script(run, place, part=SCHEDULER, image=image, command=command, env={})


def worker_script(
    run: Run, place: Place, request: WorkerRequest, options: AWSOptions, scheduler: str, memory: int
) -> str:
    """Return the boot script of a worker's instance.

    Parameters
    ----------
    run, place, options : Run, Place, AWSOptions
        The run, where its instances are, and the target's options.
    request : WorkerRequest
        The worker.
    scheduler : str
        The scheduler's address for workers.
    memory : int
        Bytes that the worker may use; 0 for no limit.
    """
    arguments = worker_arguments(
        scheduler,
        tag=request.tag,
        slots=request.slots,
        memory=memory,
        directory="/tmp",  # noqa: S108 - of a container that nobody else uses
        preload=request.preload,
        extra=("--protocol", "tls"),
    )
    program = f"import sys\ncommand = sys.argv[1:]\n{watched_worker(PORT, silence=options.silence)}"
    watching = [options.python, "-P", "-c", program]
    worker = [*server_command(options.python, "worker"), *arguments, "--name", "$ID"]
    return boot_script(
        run,
        place,
        part=request.tag,
        image=request.image,
        command=[*watching, *worker],
        env={**thread_environment(request.cpus, request.slots), **request.env},
        gpus=request.gpus,
    )


def run_scheduler_instance(
    run: Run, place: Place, options: AWSOptions, subnet: str, script: str
) -> Request:
    """Return the request for the scheduler's instance, which is never on spare capacity."""
    params = _instances(
        run,
        place,
        options,
        machine=options.scheduler_instance_type,
        ami=place.ami,
        subnet=subnet,
        token=f"{run.name}-{subnet}",
        n=1,
        script=script,
        tags={**run.all_tags, "Name": f"{resource_name(run.name)}-scheduler"},
    )
    return Request("ec2", "RunInstances", params)


def run_worker_instances(
    run: Run,
    place: Place,
    options: AWSOptions,
    request: WorkerRequest,
    *,
    machine: str,
    subnet: str,
    token: str,
    n: int,
    request_id: str,
    script: str,
    spot: bool,
) -> Request:
    """Return the request for instances of a component's workers.

    Parameters
    ----------
    run, place, options : Run, Place, AWSOptions
        The run, where its instances are, and the target's options.
    request : WorkerRequest
        The worker.
    machine, subnet, token : str
        Type of instance, subnet, and the token by which AWS knows a call that is repeated.
    n : int
        How many; AWS may start fewer.
    request_id : str
        The launch.
    script : str
        What they run.
    spot : bool
        Whether they are on spare capacity.
    """
    tags = {
        **request.labels,
        **run.all_tags,
        COMPONENT: request.tag,
        REQUEST: request_id,
        "Name": f"{resource_name(run.name)}-{request.tag}",
    }
    params = _instances(
        run,
        place,
        options,
        machine=machine,
        ami=place.gpu_ami if request.gpus else place.ami,
        subnet=subnet,
        token=token,
        n=n,
        script=script,
        tags=tags,
    )
    if spot:
        params["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        }
    return Request("ec2", "RunInstances", params)


def _instances(
    run: Run,
    place: Place,
    options: AWSOptions,
    *,
    machine: str,
    ami: MachineImage,
    subnet: str,
    token: str,
    n: int,
    script: str,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    volume = {
        "DeviceName": ami.root_device,
        "Ebs": {
            "VolumeSize": max(options.volume_size, ami.gib),
            "VolumeType": "gp3",
            "Encrypted": True,
            "DeleteOnTermination": True,
        },
    }
    # Whatever the image says, they end with the instance.
    others = [{"DeviceName": name, "Ebs": {"DeleteOnTermination": True}} for name in ami.others]
    return {
        "ImageId": ami.id,
        "InstanceType": machine,
        "MinCount": 1,
        "MaxCount": n,
        "ClientToken": token,
        "UserData": user_data(script),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": {"Name": place.profile},
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [volume, *others],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": subnet,
                "Groups": [*place.security_groups],
                "AssociatePublicIpAddress": options.public_ip,
                "DeleteOnTermination": True,
            }
        ],
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": upper_tags(tags)} for kind in ("instance", "volume")
        ],
    }


def instance_log_stream(part: str, instance: str) -> str:
    """Return the name of the log stream of an instance's container.

    Examples
    --------
    >>> instance_log_stream("gcam", "i-0123")
    'gcam/i-0123'
    """
    return f"{part}/{instance}"
