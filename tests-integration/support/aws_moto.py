"""moto's server, started by ``python aws_moto.py``: AWS's state, without anything that runs.

It prints its port and ends when its standard input is closed, so that it outlives nobody.

Some of moto 5.2 is replaced. The network interfaces of tasks have addresses of their subnet, which is a part of
127.0.0.0/8; the public address of a task or an instance is the same. What was terminated may be terminated again,
and a role that is in no instance profile is not found there.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from typing import Any

import moto.ec2.models.amis as images
import moto.ec2.models.elastic_network_interfaces as interfaces
import moto.ec2.models.instances as instances
import moto.ecs.models as ecs
import moto.iam.models as iam
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.iam.exceptions import NotFoundException
from moto.moto_api import state_manager
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.utilities.utils import load_resource
from werkzeug.serving import WSGIRequestHandler, make_server

_current = threading.local()
"""The subnet of the task that this thread creates."""


class _Task(ecs.Task):
    """A task whose address belongs to its subnet."""

    __module__ = "moto.ecs.models"  # moto reads the name of the service from here

    def __init__(self, cluster: Any, *args: Any, **kwargs: Any) -> None:
        backend: Any = ec2_backends[DEFAULT_ACCOUNT_ID][cluster.region_name]
        network: Any = (kwargs.get("networking_configuration") or {}).get("awsvpcConfiguration", {})
        _current.subnet = backend.get_subnet(network["subnets"][0])
        super().__init__(cluster, *args, **kwargs)
        if network.get("assignPublicIp") == "ENABLED":
            attachments: Any = self.attachments
            details = {each["name"]: each["value"] for each in attachments[0]["details"]}
            card = backend.enis[details["networkInterfaceId"]]
            card.public_ip = card.private_ip_address


def _address_of_a_task(*_: Any, **__: Any) -> str:
    address: str = _current.subnet.get_available_subnet_ip(None)
    return address


def _use_own_address(card: Any) -> None:
    if str(card.public_ip_auto_assign).lower() == "true":
        card.public_ip = card.private_ip_address


def _terminate(instance: Any) -> Any:
    if instance.state == "terminated":
        return copy.copy(instance._state)
    return _moto_terminate(instance)


_moto_terminate = instances.Instance.terminate


def _load_fewer(path: str) -> Any:
    if (
        "/ecs/" in path
    ):  # a thousand machine images, which take a second each time that moto forgets all
        raise FileNotFoundError(path)
    return load_resource(path)


def _remove_role(backend: Any, profile_name: str, role_name: str) -> None:
    if backend.get_role(role_name) not in backend.get_instance_profile(profile_name).roles:
        text = f"Role {role_name} is not in the instance profile {profile_name}."
        raise NotFoundException(text)
    _moto_remove_role(backend, profile_name, role_name)


_moto_remove_role = iam.IAMBackend.remove_role_from_instance_profile


class _Silent(WSGIRequestHandler):
    """A handler that logs no requests."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any, **__: Any) -> None:
        """Log nothing."""


def main() -> None:
    """Serve until standard input is closed."""
    replaced: list[tuple[Any, str, Any]] = [
        (ecs, "random_private_ip", _address_of_a_task),
        (ecs, "Task", _Task),
        (instances.Instance, "terminate", _terminate),
        (iam.IAMBackend, "remove_role_from_instance_profile", _remove_role),
        (images, "load_resource", _load_fewer),
        (interfaces.NetworkInterface, "check_auto_public_ip", _use_own_address),
    ]
    for where, name, new in replaced:
        assert hasattr(where, name)
        setattr(where, name, new)
    # Otherwise a task would be STOPPED as soon as it is looked at.
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": 10**9})
    server = make_server(
        "127.0.0.1",
        0,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=_Silent,
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
