"""Run a command in a process of its own and say what it used."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

# Starts a command and writes what it used as the last line of stderr. The kernel counts the memory of the process that
# starts another for that one too, so a small process does it.
LAUNCHER = """
import json, resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9]), file=sys.stderr)
sys.exit(status)
"""


class Used(NamedTuple):
    """Wall and processor seconds of a command, and the peak memory in GB of its largest process."""

    seconds: float
    processor: float
    memory: float


def run_apart(command: Sequence[str], **options: Any) -> Used:
    """Run a command in a process of its own; a ``RuntimeError`` with its errors where it fails."""
    begin = time.perf_counter()
    launched = [sys.executable, "-I", "-c", LAUNCHER, *command]
    ended = subprocess.run(launched, stderr=subprocess.PIPE, text=True, check=False, **options)
    *errors, used = ended.stderr.splitlines()
    if ended.returncode:
        raise RuntimeError("\n".join([f"{' '.join(command)} failed:", *errors]))
    return Used(time.perf_counter() - begin, *json.loads(used))
