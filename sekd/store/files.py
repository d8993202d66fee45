"""Files that are whole or absent, and JSON that knows when a byte of it changed."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.store.fingerprint import canonical, refuse_ambiguous


class DamagedStoreError(SekdError):
    """One file of a store is not what the manifest says. ``file`` and ``what`` name it for ``verify``."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(file, what)  # both, so that another process can build the same error
        self.file = file
        self.what = what

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; `python -m sekd.store.verify` names every fault of the store"


def seal(body: Mapping[str, Any]) -> str:
    """``body`` as JSON text that carries its own checksum. Equal bodies give equal text."""
    assert "checksum" not in body
    refuse_ambiguous(body, "body")
    checksum = hashlib.sha256(canonical(body).encode()).hexdigest()
    return json.dumps({**body, "checksum": checksum}, sort_keys=True, indent=1) + "\n"


def read_sealed(file: Path) -> dict[str, Any]:
    """The body of a sealed file.

    The text must be, byte for byte, what ``seal`` writes for its content, so that even a changed space is seen.

    Raises:
        DamagedStoreError: the file is missing or any byte of it changed.
    """
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise DamagedStoreError(file, "missing") from None
    try:
        body = json.loads(raw)
        del body["checksum"]
        if seal(body).encode() == raw:
            return body
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DamagedStoreError(file, "its own checksum does not match its content")


def write_sealed(file: Path, body: Mapping[str, Any], *, temporary: Path) -> None:
    """Publish ``body`` as ``file`` in one step; ``temporary`` is where it grows, on the same file system."""
    try:
        temporary.write_text(seal(body))
        sync(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync(file.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """``sync`` every file and directory at and below ``folder``, leaves first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def file_digest(file: Path) -> dict[str, Any]:
    """A file's size in bytes and its SHA-256."""
    with file.open("rb") as stream:
        return {"bytes": os.fstat(stream.fileno()).st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def files_below(folder: Path) -> list[str]:
    """Every file below ``folder``, as sorted relative names with ``/``."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def temporary_name(folder: Path, stem: str) -> Path:
    """A name in ``folder`` that no other process uses, told by its stem when it is left behind."""
    return folder / f"{stem}.{uuid.uuid4().hex[:12]}"


def remove(path: Path) -> None:
    """Delete a file or a whole directory; what is already gone is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
