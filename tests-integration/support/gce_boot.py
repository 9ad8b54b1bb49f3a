"""A startup script, and the programs of an instance that only root, or Google, could run here.

As a program, this file is one of them: ``docker``, ``shutdown`` and others, by the name that it is called by.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOES_NOTHING = (
    *("apt-get", "chown", "cos-extensions", "docker-credential-gcr", "iptables", "modprobe"),
    *("mount", "nvidia-smi", "service", "sysctl", "systemctl", "usermod"),
)
ENDS = ("halt", "poweroff", "reboot", "shutdown")
PROGRAMS = ("docker", "sudo", *ENDS, *DOES_NOTHING)

BED = "SCALABLE_TESTS_"
"""How the names of the variables begin that tell these programs of their circumstances."""

END = "/fake/end"
"""Where the metadata server is told that its instance shuts down."""

INIT = """
trap : TERM  # as what runs first on a machine, it outlives all else
bash "$0"
echo "startup-script exit status $?"
exec sleep infinity
"""
"""What an instance runs from its start to its end, with the startup script's file as its argument."""

_HOSTS = re.compile(r"\bmetadata\.google\.internal\b|\b169\.254\.169\.254\b")
_ROOTS = re.compile(r"(?<![\w.$}/-])/(run|opt|root|var|mnt|etc/scalable|home)(?=/|\b)")
"""Directories of root's, which an instance has below its own."""

_VALUED = frozenset(
    {
        *("-e", "--env", "--env-file", "-v", "--volume", "--mount", "--name", "--shm-size", "-w"),
        *("--workdir", "--network", "--net", "--gpus", "--memory", "-m", "--cpus", "--ulimit"),
        *("--entrypoint", "-u", "--user", "--log-driver", "--log-opt", "--restart", "--pull"),
        *("--hostname", "--tmpfs", "--label", "--device", "--stop-timeout", "--stop-signal"),
    }
)
_PLAIN = frozenset({"--rm", "--init", "--privileged", "-i", "--read-only"})
"""Options of ``docker run`` with and without a value; others are an error."""


def adapted(script: str, root: Path, metadata: str) -> str:
    """Return a startup script as it can run here.

    Parameters
    ----------
    script : str
        As the metadata of an instance have it.
    root : Path
        Stands for the directories of the instance that only root may write.
    metadata : str
        Stands for the host of the metadata.

    Examples
    --------
    >>> adapted("curl http://metadata.google.internal/ >/run/x", Path("/a"), "127.0.0.2:80")
    'curl http://127.0.0.2:80/ >/a/run/x'
    """
    return _ROOTS.sub(rf"{root}/\1", _HOSTS.sub(metadata, script))


def make_root(root: Path) -> None:
    """Create the directories of an instance."""
    for name in ("run", "opt", "root", "var/lib", "mnt", "etc", "home"):
        (root / name).mkdir(parents=True)


def write_programs(directory: Path) -> None:
    """Write the programs of an instance, which come first on its ``PATH``."""
    directory.mkdir()
    for name in PROGRAMS:
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {name} "$@"\n')
        program.chmod(0o755)


# -- The programs


def _docker(arguments: Sequence[str]) -> int:
    images: Mapping[str, Mapping[str, Any]] = json.loads(os.environ[f"{BED}IMAGES"])
    if arguments[:1] == ["pull"]:
        return _pull(arguments[-1], images)
    if arguments[:1] != ["run"]:
        # Whoever looks whether there is Docker, or logs in, or removes a container.
        return 0 if arguments[:1] in (["info"], ["login"], ["rm"], ["version"]) else 1
    env, entry = dict[str, str](), ""
    i = 1
    while arguments[i].startswith("-"):
        option, has_value, value = arguments[i].partition("=")
        if option in _VALUED and not has_value:
            i += 1
            value = arguments[i]
        if option in ("-e", "--env"):
            key, given, text = value.partition("=")
            if given or key in os.environ:
                env[key] = text if given else os.environ[key]
        elif option == "--env-file":
            lines = Path(value).read_text("utf-8").splitlines()
            pairs = (line.partition("=") for line in lines if "=" in line and line[:1] != "#")
            env.update((key, text) for key, _, text in pairs)
        elif option == "--entrypoint":
            entry = value
        elif option not in _VALUED | _PLAIN:
            print(f"docker: tests do not know the option {option}", file=sys.stderr)
            return 125
        i += 1
    image = arguments[i]
    if _pull(image, images):
        return 125
    sys.path.insert(0, str(Path(__file__).parent))
    from aws_conditions import bound, container_environment
    from aws_machines import CONTAINER

    known = images.get(image, {})
    whole = known.get("command") or [*([entry] if entry else []), *arguments[i + 1 :]]
    command = bound(whole, os.environ[f"{BED}ADDRESS"])
    host = {"GCE_METADATA_HOST": os.environ["GCE_METADATA_HOST"]}  # what DNS would do
    inside = {**container_environment(Path.cwd()), **host, **known.get("env", {}), **env}
    inside[CONTAINER] = image
    try:
        os.execvpe(command[0], command, inside)
    except OSError as error:
        print(f"docker: Error response from daemon: exec: {error}", file=sys.stderr)
    return 127


def _pull(image: str, images: Mapping[str, Mapping[str, Any]]) -> int:
    if images.get(image, {}).get("is_missing"):
        print(f"Unable to find image '{image}' locally", file=sys.stderr)
        print(
            f"docker: Error response from daemon: manifest for {image} not found", file=sys.stderr
        )
        return 1
    return 0


def _end() -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://{os.environ['GCE_METADATA_HOST']}{END}"
    with opener.open(urllib.request.Request(url, method="POST", data=b""), timeout=60):
        pass


def main(name: str, arguments: Sequence[str]) -> int:
    """Do what a program of this name does."""
    if name == "docker":
        return _docker(arguments)
    if name == "sudo":
        return subprocess.run([*arguments], check=False).returncode
    if name in ENDS:
        _end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
