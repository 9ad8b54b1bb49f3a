"""Build container images from this machine's own Python, without registry and network, as a docker-archive.

``python container_image.py NAME FILE`` writes one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import cache_from_source
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import Requirement

PACKAGES = "/opt/site-packages"  # a name by which it is known to have what is installed
_NOT_NEEDED = {"__pycache__", "ensurepip", "idlelib", "site-packages", "test", "tkinter"}
_DIRECTORIES = {
    "dev": 0o755,
    "proc": 0o755,
    "root": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}


def write_image(
    file: Path,
    name: str,
    *,
    python: bool = True,
    env: Mapping[str, str] | None = None,
    scripts: Mapping[str, str] | None = None,
) -> None:
    """Write an image with a shell and, if wanted, this Python with distributed, at the paths that they have here.

    Parameters
    ----------
    file : Path
        Where the docker-archive goes.
    name : str
        ``localhost/worker:1``.
    python : bool
        Whether it has a Python.
    env : mapping, optional
        Variables of its containers.
    scripts : mapping, optional
        Contents of more files, by their paths.
    """
    packages = ("distributed",) if python else ()
    write_images(file, {name: env or {}}, packages=packages, scripts=scripts)


def write_images(
    file: Path,
    images: Mapping[str, Mapping[str, str]],
    *,
    packages: Sequence[str] = ("distributed",),
    scripts: Mapping[str, str] | None = None,
) -> None:
    """Write images that have the same files.

    Parameters
    ----------
    file : Path
        Where the docker-archive goes.
    images : mapping
        The variables of their containers, by their names.
    packages : sequence of str
        The distributions that they have, with what these require; if there are any, they have a Python, too.
    scripts : mapping, optional
        Contents of more files, by their paths.
    """
    files = {Path("/bin/sh"): Path(shutil.which("sh") or "/bin/sh").resolve()}
    texts = {
        "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "/etc/group": "root:x:0:\n",
        **(scripts or {}),
    }
    if packages:
        interpreter = Path(sys.base_prefix, f"bin/python{sysconfig.get_python_version()}")
        files |= {path: path for path in (interpreter.resolve(), *_standard_library())}
        files |= dict(_distributions(packages))
        # Not beside the interpreter, where Apptainer may mount a home directory that has another one.
        texts["/usr/bin/python3"] = (
            "#!/bin/sh\n"
            f"export PYTHONPATH={PACKAGES}${{PYTHONPATH:+:$PYTHONPATH}}\n"
            f'exec {shlex.quote(str(interpreter.resolve()))} "$@"\n'
        )
    files |= dict(_compiled(files))
    files |= {path: path for path in _shared_libraries(files.values())}
    variables = {name: {"PATH": "/usr/bin:/bin", **env} for name, env in images.items()}
    _write_archive(file, _layer(files, texts), variables)


def facts(packages: Sequence[str] = ("distributed",)) -> str:
    """Return what an image depends on beside this file: as far as they are released, its distributions."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return f"{sys.version} {sys.base_prefix} {versions}"


def _standard_library() -> Iterator[Path]:
    for directory, children, names in os.walk(sysconfig.get_path("stdlib")):
        children[:] = [c for c in children if c not in _NOT_NEEDED and not c.startswith("config-")]
        yield from (Path(directory, name) for name in names if not name.endswith(".a"))


def _distributions(names: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """Yield the files of distributions and of their dependencies: the path in the image, and on this machine."""
    todo, found = [*names], set()
    while todo:
        distribution = importlib.metadata.distribution(todo.pop())
        if distribution.name in found:
            continue
        found.add(distribution.name)
        requirements = map(Requirement, distribution.requires or ())
        todo += [
            r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})
        ]
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                yield Path(PACKAGES, file), Path(str(file.locate()))
        yield from _source_tree(distribution)


def _source_tree(distribution: importlib.metadata.Distribution) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a distribution that is installed from its source tree, which it only refers to."""
    # https://packaging.python.org/en/latest/specifications/direct-url
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        sources = Path(url2pathname(urlsplit(origin["url"]).path), "src")
        for path in sorted(sources.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield Path(PACKAGES, path.relative_to(sources)), path


def _compiled(files: dict[Path, Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the byte code of modules: a container cannot keep it, and each start would take seconds without it."""
    for inside, here in files.items():
        if here.suffix == ".py" and (code := Path(cache_from_source(here))).exists():
            yield Path(cache_from_source(inside)), code


def _shared_libraries(files: Iterable[Path]) -> set[Path]:
    binaries = [str(path) for path in files if path.read_bytes()[:4] == b"\x7fELF"]
    listing = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", listing)}


def _layer(files: dict[Path, Path], texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory, mode in _DIRECTORIES.items():
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for inside, here in sorted(files.items()):
            info = tarfile.TarInfo(str(inside))
            info.mode = 0o755 if os.access(here, os.X_OK) else 0o644
            status = here.stat()
            info.size, info.mtime = (
                status.st_size,
                int(status.st_mtime),
            )  # byte code is checked by both
            with here.open("rb") as content:
                tar.addfile(info, content)
        for path, text in texts.items():
            info = tarfile.TarInfo(path)
            info.mode, info.size = 0o755, len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _write_archive(file: Path, layer: bytes, images: Mapping[str, Mapping[str, str]]) -> None:
    """Write what ``docker save`` writes: layers, configurations, a manifest."""
    digest = hashlib.sha256(layer).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    members, manifest = {f"{digest}/layer.tar": layer}, []
    for name, env in images.items():
        config = {
            "architecture": machine,
            "os": "linux",
            "config": {"Env": [f"{key}={value}" for key, value in env.items()]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "container_image.py"}],
        }
        written = json.dumps(config).encode()
        described = {
            "Config": f"{hashlib.sha256(written).hexdigest()}.json",
            "RepoTags": [name],
            "Layers": [f"{digest}/layer.tar"],
        }
        members[str(described["Config"])] = written
        manifest.append(described)
    members["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(file, "w") as tar:
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    write_image(Path(sys.argv[2]), sys.argv[1])
