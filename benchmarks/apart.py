"""Run a command in a process of its own and say what it used."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sekd.cli import TRAINING_ENVIRONMENT

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
    """Run a command in a process of its own; a ``RuntimeError`` with its errors where it fails.

    It has the environment that ``sekd`` gives its module, whatever that of this process is.
    """
    environment = {name: value for name, value in os.environ.items() if name not in TRAINING_ENVIRONMENT}
    environment |= TRAINING_ENVIRONMENT if "stage2_student" in command else {}
    begin = time.perf_counter()
    launched = [sys.executable, "-I", "-c", LAUNCHER, *command]
    ended = subprocess.run(launched, env=environment, stderr=subprocess.PIPE, text=True, check=False, **options)
    *errors, used = ended.stderr.splitlines()
    if ended.returncode:
        raise RuntimeError("\n".join([f"{' '.join(command)} failed:", *errors]))
    return Used(time.perf_counter() - begin, *json.loads(used))
