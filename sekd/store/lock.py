"""Prevents two runs from working on the same shards of a store, also on shared disks without file locks.

Each run writes a lock file of its own in ``locks/`` and then reads the others: of two runs that start together both may
stop, but never both continue. A lock is stale when its process has ended or, on another machine, when its file was not
touched for ``STALE_SECONDS``.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import gcd
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.files import remove, write_whole
from sekd.store.manifest import DamagedStoreError, read_sealed, seal, temporary_name

TOUCH_SECONDS = 20.0
STALE_SECONDS = 300.0
ATTEMPTS = 4
Holder = dict[str, Any]


@dataclass(frozen=True)
class ShardPart:
    """Part ``index`` of ``count``: every ``count``-th shard from ``index`` on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SekdError(f"part {self.index}/{self.count} does not exist: parts run from 0 to {self.count - 1}")

    def takes(self, shard: int) -> bool:
        return shard % self.count == self.index

    def overlaps(self, other: "ShardPart") -> bool:
        """Whether some shard is in both (Chinese remainder theorem)."""
        return (self.index - other.index) % gcd(self.count, other.count) == 0


WHOLE = ShardPart()


@contextmanager
def hold(store: Path, part: ShardPart = WHOLE) -> Iterator[None]:
    """Lock these shards for the length of the block, and delete what earlier runs left of them in ``tmp/``.

    Raises:
        SekdError: a running process holds some of them; the message names its process id, host and start.
    """
    own = _acquire(store, part)
    for left in (store / "tmp").glob("*"):
        shard = left.name.partition(".")[0]
        if part.count == 1 or (shard.isdigit() and part.takes(int(shard))):
            remove(left)
    released = threading.Event()

    def touch() -> None:
        while not released.wait(TOUCH_SECONDS):
            with suppress(OSError):
                os.utime(own)

    threading.Thread(target=touch, daemon=True).start()
    try:
        yield
    finally:
        released.set()
        own.unlink(missing_ok=True)


def holders(store: Path) -> list[Holder]:
    """The running processes that hold shards of a store."""
    return [holder for _, holder, alive in _locks(store, now=time.time()) if alive]


def describe(holder: Holder) -> str:
    index, count = holder["part"]
    part = "" if count == 1 else f" on part {index}/{count}"
    return f"process {holder['pid']} on {holder['host']}{part} since {holder['since']}"


def _acquire(store: Path, part: ShardPart) -> Path:
    """Write this run's lock file and return it, once no running process holds an overlapping part."""
    own, pid, now = temporary_name(store / "locks", "run"), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds")
    body = {"pid": pid, "started": _started(pid), "host": socket.gethostname(), "machine": _machine(), "since": now}
    for attempt in range(ATTEMPTS):
        time.sleep(random.uniform(0.02, 0.2) if attempt else 0)
        write_whole(own, seal({**body, "part": [part.index, part.count]}), temporary_name(own.parent, "new"))
        rivals = []
        for file, holder, alive in _locks(store, now=own.stat().st_mtime):
            if not alive:
                file.unlink(missing_ok=True)
            elif file != own and part.overlaps(ShardPart(*holder["part"])):
                rivals.append(describe(holder))
        if not rivals:
            return own
        own.unlink()
    raise SekdError(f"{store} is in use by {rivals[0]}: wait for it, stop it, or work on another part")


def _locks(store: Path, *, now: float) -> Iterator[tuple[Path, Holder, bool]]:
    """Every lock file with its content and whether its process runs. ``now`` is compared with the files' times."""
    for file in sorted((store / "locks").glob("run.*")):
        with suppress(FileNotFoundError):  # released meanwhile
            try:
                holder = read_sealed(file)
            except DamagedStoreError:
                holder = {"pid": "?", "host": f"(unreadable lock {file.name})", "since": "?", "part": [0, 1]}
            alive = now - file.stat().st_mtime < STALE_SECONDS
            if _machine() and (holder.get("machine"), holder["host"]) == (_machine(), socket.gethostname()):
                alive = holder["started"] is not None and _started(holder["pid"]) == holder["started"]
            yield file, holder, alive


def _machine() -> str:
    """The scope of a process id: this boot of the kernel and this namespace of process ids. "" without Linux."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's clock ticks; None if it has ended (also if it is not reaped yet)."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None
