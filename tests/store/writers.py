"""Writer processes to be killed or raced: ``python writers.py kill ROOT KILLS SEED`` or ``race ROOT PROCESSES``.

Children are forked from a parent that has imported everything and started no thread, so each begins at once.
"""

import os
import random
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import zarr  # noqa: F401
from store_passes import new_store, shard

from sekd.errors import SekdError
from sekd.store import Plan
from sekd.store.lock import WHOLE, ShardPart, hold

PLAN = Plan(n_examples=36, shard_size=3)


def write_part(root: Path, part: ShardPart) -> None:
    store = new_store(root, plan=PLAN)
    with hold(store.path, part):
        for index in filter(part.takes, store.missing()):
            store.write_shard(index, *shard(store, index), {"device": "none"})


def write_all_unlocked(root: Path) -> None:
    """What no run should do: write what another is writing. Each may lose its shard to the other, with an error."""
    store = new_store(root, plan=PLAN)
    for index in range(PLAN.n_shards):
        with suppress(SekdError):
            store.write_shard(index, *shard(store, index), {"device": "none"})


def fork(work, *arguments) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill_until(root: Path, *, kills: int, seed: int) -> None:
    """Write passes, killing the writer at random moments, until it was killed ``kills`` times at work."""
    rng = random.Random(seed)
    killed = passes = 0
    while killed < kills:
        pid = fork(write_part, root / str(passes), WHOLE)
        time.sleep(rng.uniform(0, 0.4))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        passes += not os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0, "a writer failed of itself"
    for unfinished in range(passes + 1):
        write_part(root / str(unfinished), WHOLE)


def race(root: Path, *, processes: int) -> None:
    """Disjoint parts of one store at once; then another store by everybody at once, and its end by one alone."""
    parts = [fork(write_part, root / "parts", ShardPart(i, processes)) for i in range(processes)]
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in parts)
    unlocked = [fork(write_all_unlocked, root / "same") for _ in range(processes)]
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in unlocked)
    write_part(root / "same", WHOLE)


if __name__ == "__main__":
    mode, root, number, *seed = sys.argv[1:]
    if mode == "kill":
        kill_until(Path(root), kills=int(number), seed=int(seed[0]))
    else:
        race(Path(root), processes=int(number))
