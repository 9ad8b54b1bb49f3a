"""User data as a script, and the programs of an instance that only root, or AWS, could run here.

As a program, this file is one of them: ``docker``, ``aws``, ``shutdown`` and others, by the name that it is called by.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METADATA = "http://169.254.169.254"
"""Where an instance has its metadata. Only root could listen there, so user data gets another address instead."""

DOES_NOTHING = (
    *("amazon-linux-extras", "apt-get", "apt-key", "add-apt-repository", "chown", "cloud-init"),
    *("dnf", "nvidia-smi", "service", "snap", "systemctl", "usermod", "yum"),
)
ENDS = ("halt", "poweroff", "reboot", "shutdown")
PROGRAMS = ("aws", "curl", "docker", "sudo", *ENDS, *DOES_NOTHING)

LOG, LOG_OPTIONS = "container.log", "container.log.json"
"""Files of an instance: what its container writes, and the group and stream of that in CloudWatch."""

_ROOTS = re.compile(r"(?<![\w.$}/-])/(run|opt|root|var|mnt|etc/scalable)(?=/|\b)")
"""Directories of root's, which an instance has below its own."""

_VALUED = frozenset(
    {
        *("-e", "--env", "--env-file", "-v", "--volume", "--mount", "--name", "--shm-size", "-w"),
        *("--workdir", "--network", "--net", "--gpus", "--memory", "-m", "--cpus", "--ulimit"),
        *("--entrypoint", "-u", "--user", "--log-driver", "--log-opt", "--restart", "--pull"),
        *("--hostname", "-h", "--tmpfs", "--label", "-l"),
    }
)
"""Options of ``docker run`` with a value."""


def boot_script(user_data: bytes, root: Path, metadata: str) -> str:
    """Return what an instance runs when it starts: a shell script.

    It knows what most images of AWS do: data packed by gzip; a script, whatever its interpreter; of ``#cloud-config``,
    ``write_files``, ``bootcmd`` and ``runcmd``.

    Parameters
    ----------
    user_data : bytes
        As RunInstances has it.
    root : Path
        Stands for the directories of the instance that only root may write.
    metadata : str
        Stands for the address of the metadata.

    Raises
    ------
    ValueError
        Another kind of user data.
    """
    data = gzip.decompress(user_data) if user_data[:2] == b"\x1f\x8b" else user_data
    text = _ROOTS.sub(rf"{root}/\1", data.decode().replace(METADATA, metadata))
    if text.startswith("#!"):
        script = root / "user-data"
        interpreter = text[2:].splitlines()[0].strip()
        return f"{_write(script, text.encode(), 0o700)}\nexec {interpreter} {shlex.quote(str(script))}\n"
    if not text.startswith("#cloud-config"):
        raise ValueError(f"user data of another kind than tests know: {text[:40]!r}")
    import yaml

    config = yaml.safe_load(text) or {}
    if unknown := {*config} - {"write_files", "bootcmd", "runcmd", "package_update", "packages"}:
        raise ValueError(
            f"modules of cloud-init that tests do not know: {', '.join(sorted(unknown))}"
        )
    lines = [_write_file(each) for each in config.get("write_files", [])]
    commands = [*config.get("bootcmd", []), *config.get("runcmd", [])]
    lines += [each if isinstance(each, str) else shlex.join(each) for each in commands]
    return "\n".join(lines) + "\n"


def _write_file(entry: Mapping[str, Any]) -> str:
    content, kind = str(entry.get("content", "")), str(entry.get("encoding", "text/plain"))
    data = base64.b64decode(content) if kind in ("b64", "base64", "gz+b64") else content.encode()
    data = gzip.decompress(data) if kind.startswith("gz") else data
    return _write(Path(entry["path"]), data, int(str(entry.get("permissions", "0644")), 8))


def _write(path: Path, data: bytes, mode: int) -> str:
    quoted, content = shlex.quote(str(path)), base64.b64encode(data).decode()
    return (
        f"mkdir -p {shlex.quote(str(path.parent))}; (umask 077; echo {content} | base64 -d >{quoted}); "
        f"chmod {mode:o} {quoted}"
    )


def write_programs(directory: Path) -> None:
    """Write the programs of an instance, which come first on its ``PATH``."""
    directory.mkdir()
    for name in PROGRAMS:
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {name} "$@"\n')
        program.chmod(0o755)


# -- The programs. Their circumstances are in variables, whose names begin with this.

BED = "SCALABLE_TESTS_"


def _docker(arguments: Sequence[str]) -> int:
    images: Mapping[str, Mapping[str, Any]] = json.loads(os.environ[f"{BED}IMAGES"])
    if arguments[:1] == ["pull"]:
        return _pull(arguments[-1], images)
    if arguments[:1] != ["run"]:
        return 0
    env, entry, detached, logs = dict[str, str](), "", False, dict[str, str]()
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
            env.update(line.split("=", 1) for line in lines if "=" in line and line[:1] != "#")  # type: ignore[misc]
        elif option == "--entrypoint":
            entry = value
        elif option == "--log-opt":
            key, _, logs[key] = value.partition("=")
        elif option in ("-d", "--detach"):
            detached = True
        i += 1
    image = arguments[i]
    if _pull(image, images):
        return 125
    from aws_conditions import bound, container_environment

    known = images.get(image, {})
    whole = known.get("command") or [*([entry] if entry else []), *arguments[i + 1 :]]
    command = bound(whole, os.environ[f"{BED}ADDRESS"])
    inside = {**container_environment(Path.cwd()), **known.get("env", {}), **env}
    if "awslogs-stream" in logs:
        options = json.dumps([logs["awslogs-group"], logs["awslogs-stream"]])
        Path(LOG_OPTIONS).write_text(options, "utf-8")
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(Path(LOG).open("wb")) if logs else None
        process = subprocess.Popen(command, env=inside, stdout=output, stderr=output)
    return 0 if detached else process.wait()


def _pull(image: str, images: Mapping[str, Mapping[str, Any]]) -> int:
    if images.get(image, {}).get("is_missing"):
        print(f"Error response from daemon: manifest for {image} not found", file=sys.stderr)
        return 1
    return 0


def _aws(arguments: Sequence[str]) -> int:
    """Do ``aws ssm get-parameter --name NAME --with-decryption --query Parameter.Value --output text``."""
    if arguments[:2] == ["ecr", "get-login-password"]:
        print("password")
        return 0
    if arguments[:2] != ["ssm", "get-parameter"] or "--with-decryption" not in arguments:
        print(f"aws {' '.join(arguments)}: tests do not know this", file=sys.stderr)
        return 2
    status, text = _ask("GET", f"program/parameter{arguments[arguments.index('--name') + 1]}")
    print(text, file=sys.stdout if status == 200 else sys.stderr)
    return 0 if status == 200 else 254


def _curl(arguments: Sequence[str]) -> int:
    """Do ``curl -sf [-X VERB] [-H HEADER] URL``."""
    verb, headers, url = "GET", dict[str, str](), ""
    rest = iter(arguments)
    for word in rest:
        if word in ("-X", "--request"):
            verb = next(rest)
        elif word in ("-H", "--header"):
            key, _, value = next(rest).partition(":")
            headers[key] = value.strip()
        elif word in ("--retry", "--max-time", "-m", "--connect-timeout"):
            next(rest)
        elif not word.startswith("-"):
            url = word
    status, text = _fetch(verb, url, headers)
    if status != 200:
        print(f"curl: (22) The requested URL returned error: {status}", file=sys.stderr)
        return 22
    print(text, end="")
    return 0


def _ask(verb: str, path: str) -> tuple[int, str]:
    return _fetch(verb, f"{os.environ[f'{BED}SELF']}/{path}", {})


def _fetch(verb: str, url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, method=verb, headers={**headers})
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def main(name: str, arguments: Sequence[str]) -> int:
    """Do what a program of this name does."""
    if name == "docker":
        return _docker(arguments)
    if name in ("aws", "curl"):
        return {"aws": _aws, "curl": _curl}[name](arguments)
    if name == "sudo":
        os.execvp(arguments[0], [*arguments])
    if name in ENDS:
        _ask("PUT", "program/end")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
