"""One run at a time on every part of a store: the second refuses, and names the first.

A lock is a file of its own in ``locks/``; it is first written and only then compared with the others, so that two
runs that start together may both step back, but never both go on. No file-locking call is needed, which shared disks
do not all honour. A lock is stale when its process is gone; of a process on another machine that is known by its
file no longer being touched.
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
from sekd.store.files import DamagedStoreError, read_sealed, remove, temporary_name, write_sealed

BEAT_SECONDS = 20.0
STALE_SECONDS = 300.0
ATTEMPTS = 4
Holder = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Part ``index`` of ``count``: every ``count``-th shard from ``index`` on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SekdError(f"part {self.index}/{self.count} does not exist: parts run from 0 to {self.count - 1}")

    def takes(self, shard: int) -> bool:
        return shard % self.count == self.index

    def overlaps(self, other: "Part") -> bool:
        """Whether some shard falls into both (Chinese remainder theorem)."""
        return (self.index - other.index) % gcd(self.count, other.count) == 0


WHOLE = Part()


@contextmanager
def hold(store: Path, part: Part = WHOLE) -> Iterator[None]:
    """Keep other runs off this part of the store for the length of the block.

    Nobody else writes this part now, so what earlier runs left of it in ``tmp/`` is cleared.

    Raises:
        SekdError: a living run holds the part or some of it; the message names its process, host and start.
    """
    own = _acquire(store, part)
    for left_behind in (store / "tmp").glob("*"):
        shard = left_behind.name.partition(".")[0]
        if part == WHOLE or (shard.isdigit() and part.takes(int(shard))):
            remove(left_behind)
    released = threading.Event()
    threading.Thread(target=_beat, args=(own, released), daemon=True).start()
    try:
        yield
    finally:
        released.set()
        own.unlink(missing_ok=True)


def holders(store: Path) -> list[Holder]:
    """The living runs on a store."""
    return [holder for _, holder, alive in _others(store, now=_clock(store)) if alive]


def _acquire(store: Path, part: Part) -> Path:
    """Write this run's lock file and return it, once no living run's part overlaps."""
    for attempt in range(ATTEMPTS):
        own = temporary_name(store / "locks", "run")
        write_sealed(own, _own_lock(part), temporary=temporary_name(store / "locks", "new"))
        rivals = []
        for file, holder, alive in _others(store, now=own.stat().st_mtime, but=own):
            if not alive:
                file.unlink(missing_ok=True)
            elif part.overlaps(Part(*holder["part"])):
                rivals.append(holder)
        if not rivals:
            return own
        own.unlink()
        if attempt < ATTEMPTS - 1:
            time.sleep(random.uniform(0.02, 0.2))
    first = min(rivals, key=lambda holder: holder["since"])
    raise SekdError(f"{store} is in use by {describe(first)}: wait for it, stop it, or work on another part")


def describe(holder: Holder) -> str:
    index, count = holder["part"]
    part = "" if count == 1 else f" on part {index}/{count}"
    return f"process {holder['pid']} on {holder['host']}{part} since {holder['since']}"


def _own_lock(part: Part) -> Holder:
    return {
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "host": socket.gethostname(),
        "machine": _machine(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "part": [part.index, part.count],
    }


def _others(store: Path, *, now: float, but: Path | None = None) -> Iterator[tuple[Path, Holder, bool]]:
    """Every lock in the store, with its content and whether its run lives. ``now`` is by the store's file system."""
    for file in sorted((store / "locks").glob("run.*")):
        if file == but:
            continue
        with suppress(FileNotFoundError):  # released between the listing and here
            beating = now - file.stat().st_mtime < STALE_SECONDS
            try:
                holder = read_sealed(file)
            except DamagedStoreError:
                if not file.exists():
                    continue
                holder = {"pid": "?", "host": f"(unreadable lock {file.name})", "since": "?", "part": [0, 1]}
            here = holder.get("machine") == _machine() and holder["host"] == socket.gethostname()
            alive = _started(holder["pid"]) == holder["started"] is not None if here else beating
            yield file, holder, alive


def _clock(store: Path) -> float:
    """The time by the file system's own clock, which stamps the locks; by ours where nothing can be written."""
    probe = temporary_name(store / "locks", "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _beat(own: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(own)


def _machine() -> str:
    """Tells where a process id means something: this boot of this kernel, and this namespace of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: the host's name has to do
        return ""


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's own count; None for one that is gone, or dead and not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        return None if Path("/proc/self/stat").exists() else _answers(pid)


def _answers(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
