"""Atomic writes: a file is complete or absent, also after a kill or with several writers."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(file: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``file`` at the end of the block.

    After an error in the block ``file`` is unchanged and the temporary file is deleted.

    Args:
        temporary: the path to yield, on the same file system; by default an unused hidden name beside ``file``.
    """
    temporary = temporary or file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync(file.parent)


def write_whole(file: Path, text: str, temporary: Path | None = None) -> None:
    """Write a text file atomically. Of several processes that write the same file, the last one wins."""
    with atomic(file, temporary) as partial:
        partial.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
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


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
