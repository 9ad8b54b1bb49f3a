"""Pack modules into one zip file: the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from scalable.errors import ModulesError
from scalable.modules.users import installed_into

__all__ = ["MAX_BYTES", "MAX_FILES", "ModuleArchive", "pack_modules", "pack_workflow"]

MAX_BYTES = 32 * 1024**2
"""Maximum total size of the files, in bytes. Every worker receives all of them when it registers."""

MAX_FILES = 5_000
"""Maximum number of files. A home directory full of projects exceeds it before all of it is read."""

_SKIPPED_NAMES = frozenset({"__pycache__", "node_modules", "site-packages"})
_SKIPPED_SUFFIXES = frozenset({".pyc", ".pyo"})
# Of Python's own extension modules alone; what ends in .so without more may be any library, of any size.
_COMPILED = tuple(suffix for suffix in EXTENSION_SUFFIXES if suffix.count(".") > 1)
_MAX_NAMED = 3
# The earliest time of the zip format. Real times would make archives of equal files differ.
_EPOCH = (1980, 1, 1, 0, 0, 0)


Member = tuple[PurePosixPath, Path]
"""A file's name in the archive, and the file."""

Selector = Callable[[Path], "Selector | None"]
"""Returns None for a directory's entry that is left out, else the selector for what is inside that entry."""


class Origin(NamedTuple):
    """The file that a member of an archive is a copy of.

    Attributes
    ----------
    path : str
        Its absolute path.
    size : int
        Its size, in bytes.
    changed : int
        When it was changed last, in nanoseconds since the epoch.
    digest : str
        Hexadecimal digest of its content.
    """

    path: str
    size: int
    changed: int
    digest: str


Directory = tuple[str, int, int]
"""A directory's path, and the device and the number of its inode, which tell whether another process has it too."""


@dataclass(frozen=True)
class ModuleArchive:
    """Modules as one zip file.

    Parameters
    ----------
    data : bytes
        The zip file.
    digest : str
        Hexadecimal SHA-256 of the names and contents of its files.
    names : tuple of str
        Its files, sorted, as paths from the directory that goes on ``sys.path``.
    origins : mapping of str to Origin
        Where each of them comes from.
    preferred : frozenset of str
        The top-level names that mean these modules, also where a worker has others of that name installed.
    directories : tuple of Directory
        The user's directories on ``sys.path``. Where a worker has the very same ones, it searches them too.
    """

    data: bytes = field(repr=False)
    digest: str
    names: tuple[str, ...]
    origins: Mapping[str, Origin] = field(repr=False, compare=False, default_factory=dict)
    preferred: frozenset[str] = frozenset()
    directories: tuple[Directory, ...] = ()

    @property
    def contents(self) -> dict[str, str]:
        """A digest of the content of each file."""
        return {name: origin.digest for name, origin in self.origins.items()}


def pack_workflow(
    directory: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> ModuleArchive | None:
    """Pack every module in `directory` that a script there can import.

    See `pack_modules` for the bounds, the result and the errors.
    """
    return _pack(list_importable(directory), max_bytes, max_files)


def pack_modules(
    paths: Sequence[Path], *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> ModuleArchive | None:
    """Pack the modules that a manifest lists.

    Parameters
    ----------
    paths : sequence of Path
        A ``.py`` file or a package (a directory with ``__init__.py``) is importable by its name; the modules inside
        any other directory are importable by theirs. If two paths have the same file, the first wins, as on
        ``sys.path``.
    max_bytes, max_files : int
        Maximum total size, in bytes, and maximum number of files.

    Returns
    -------
    ModuleArchive or None
        None if there is nothing to import.

    Raises
    ------
    ModulesError
        A path does not exist, cannot be read or has nothing to import, or a bound is exceeded.
    """
    return _pack(chain.from_iterable(map(list_entry, paths)), max_bytes, max_files)


def list_entry(path: Path) -> Iterator[Member]:
    """Yield the files of one entry of ``project.modules``."""
    if path.is_file() and _is_module(path):
        yield PurePosixPath(path.name), path
    elif (path / "__init__.py").is_file():
        yield from _walk(path, PurePosixPath(path.resolve().name), _select_all)
    elif path.is_dir():
        yield from list_importable(path)
    elif path.exists():
        raise ModulesError(
            f"project.modules names {path}, which is neither a module nor a directory; "
            "keep data files inside a package"
        )
    else:
        raise ModulesError(
            f"project.modules names {path}, which does not exist; "
            "relative paths start from the manifest's directory"
        )


def list_importable(directory: Path) -> Iterator[Member]:
    """Yield the files of the modules that ``import`` finds in a directory, without what is installed into it."""
    installed = installed_into(str(directory))

    def select(entry: Path) -> Selector | None:
        return None if entry.name.partition(".")[0] in installed else _select_importable(entry)

    return _walk(directory, PurePosixPath(), select)


def list_package(directory: Path, name: PurePosixPath) -> Iterator[Member]:
    """Yield the files of a package."""
    return _walk(directory, name, _select_all)


def _walk(
    directory: Path,
    name: PurePosixPath,
    selector: Selector,
    ancestors: frozenset[Path] = frozenset(),
) -> Iterator[Member]:
    """Yield the files below a directory that `selector` selects, without hidden files, caches and environments."""
    real = directory.resolve()
    if real in ancestors:  # a symbolic link to a directory that contains it
        return
    for entry in sorted(directory.iterdir()):
        if (
            entry.name.startswith(".")
            or entry.name in _SKIPPED_NAMES
            or entry.suffix in _SKIPPED_SUFFIXES
        ):
            continue
        inside = selector(entry)
        if inside is None:
            continue
        if entry.is_file():
            yield name / entry.name, entry
        elif entry.is_dir() and not (entry / "pyvenv.cfg").exists():
            yield from _walk(entry, name / entry.name, inside, ancestors | {real})


def _is_module(file: Path) -> bool:
    """Return whether a file is one module by its name: source, or compiled as by f2py."""
    return file.suffix == ".py" or (
        file.name.endswith(_COMPILED) and file.name.partition(".")[0].isidentifier()
    )


def _select_all(entry: Path) -> Selector | None:
    """Select everything, because a package's data files belong to it."""
    return _select_all


def _select_importable(entry: Path) -> Selector | None:
    """Select what ``import`` finds in a directory on ``sys.path``."""
    if _is_module(entry):
        return _select_importable
    if not entry.name.isidentifier():
        return None
    if (entry / "__init__.py").is_file():
        return _select_all
    # A directory without __init__.py is importable too. One without modules may be anything, such as results.
    return _select_importable if any(entry.glob("*.py")) else None


def _pack(members: Iterable[Member], max_bytes: int, max_files: int) -> ModuleArchive | None:
    try:
        files = check_bounds(members, max_bytes, max_files)
        return build_archive(files) if files else None
    except OSError as error:
        raise unreadable_error(error) from error


def unreadable_error(error: OSError) -> ModulesError:
    """Return the error for a file that cannot be read."""
    return ModulesError(
        f"cannot read {error.filename} to send it to the workers: {error.strerror}; "
        "list what workers need under project.modules"
    )


def check_bounds(
    members: Iterable[Member], max_bytes: int, max_files: int
) -> dict[PurePosixPath, Path]:
    """Return the files by their names in the archive.

    Raises
    ------
    ModulesError
        They are too many or too large.
    OSError
        One cannot be read.
    """
    files: dict[PurePosixPath, Path] = {}
    for name, file in members:
        if not _is_text(name):
            continue  # no archive can hold it, and no import names it
        files.setdefault(name, file)
        if len(files) > max_files:
            raise ModulesError(
                f"there are more than {max_files} files beside the workflow, too many to send to every worker "
                f"(the last one found is {file}); list what workers need under project.modules"
            )
    sizes = {name: file.stat().st_size for name, file in files.items()}
    total = sum(sizes.values())
    if total > max_bytes:
        biggest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_MAX_NAMED]
        listed = ", ".join(f"{files[name]} ({_format_size(sizes[name])})" for name in biggest)
        raise ModulesError(
            f"the workflow's modules are {_format_size(total)}, "
            f"and at most {_format_size(max_bytes)} are sent to every worker; "
            f"the largest files are {listed}: keep data where workers can read it, or list what workers need "
            "under project.modules"
        )
    return files


def _is_text(name: PurePosixPath) -> bool:
    """Return whether a name is text, as names that were written in another encoding are not."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def build_archive(files: Mapping[PurePosixPath, Path]) -> ModuleArchive:
    """Return the archive of these files.

    Parameters
    ----------
    files : mapping of PurePosixPath to Path
        The files, by their names in the archive.

    Raises
    ------
    OSError
        One cannot be read.
    """
    digest = hashlib.sha256()
    buffer = io.BytesIO()
    origins = {}
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in sorted(files):
            name, file = str(member), files[member]
            status = (
                file.stat()
            )  # before it is read: if it is changed meanwhile, that is seen later
            content = file.read_bytes()
            # With their lengths, because different names and contents may be the same bytes when concatenated.
            digest.update(f"{len(name.encode())} {len(content)} {name}".encode() + content)
            own = hashlib.sha256(content).hexdigest()[:32]
            origins[name] = Origin(str(file.absolute()), status.st_size, status.st_mtime_ns, own)
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return ModuleArchive(buffer.getvalue(), digest.hexdigest(), tuple(origins), origins)


def _format_size(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
