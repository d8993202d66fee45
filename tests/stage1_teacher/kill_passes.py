"""Runs passes over and over and kills each at a random moment: ``kill_passes.py ARTIFACTS KILLS < pickled settings``.

The engine is started once; every pass runs in a fork of this process that inherits it, so a kill costs a pass and not
an engine's start. A pass that completes is compared with the first, uninterrupted one; then a new store begins.
Prints the number of kills and of completed passes.
"""

import os
import pickle
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from teacher_passes import contents

from sekd.store.verify import verify
from stage1_teacher import worker as worker_module
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.worker import TeacherWorker


def main(artifacts: Path, kills: int) -> None:
    config: TeacherConfig = pickle.load(sys.stdin.buffer)
    first = replace(config, artifacts=str(artifacts / "first"))
    engine = TeacherWorker(first, prepare(first).store.path)._engine
    worker_module.Engine = lambda *_, **__: engine
    TeacherWorker.close = lambda self: None
    start = time.perf_counter()
    wait(fork(first))
    whole = time.perf_counter() - start
    expected = contents(prepare(first).store.path)
    # Longer than a whole pass, so that every one has a chance to end, however late its first shard comes.
    print(*kill_until(config, artifacts, kills=kills, longest=1.2 * whole, expected=expected))


def kill_until(
    config: TeacherConfig, artifacts: Path, *, kills: int, longest: float, expected: dict[str, str]
) -> tuple[int, int]:
    rng = random.Random(0)
    killed = completed = 0
    while killed < kills or not completed:
        attempt = replace(config, artifacts=str(artifacts / f"pass-{completed}"))
        child = fork(attempt)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        store = prepare(attempt).store
        if not store.missing():
            assert contents(store.path) == expected, f"pass {completed} differs after {killed} kills"
            assert not [fault for fault in verify(store) if "stale temporary" not in fault.what]
            completed += 1
    return killed, completed


def fork(config: TeacherConfig) -> int:
    child = os.fork()
    if child:
        return child
    try:
        run(config)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"a pass failed with {code}"
    return code


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
