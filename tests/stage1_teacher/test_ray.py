"""The pass on a Ray cluster of two nodes: actors are killed and hang, a node goes down, and no byte differs.

The nodes share a machine and the folder that the store lies in.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from teacher_passes import contents

from sekd.errors import SekdError
from sekd.inference import pool
from sekd.inference.pool import Pool, run_jobs
from sekd.inference.ray_pool import RayPool
from sekd.stop import Stop
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.progress import Progress, Tolerance
from stage1_teacher.worker import TeacherWorker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with room for one actor each. The driver is on the first; tests may take the other one down."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # at Ray's 15, the tests beside this one leave an actor no time
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()


@pytest.fixture
def when_heard(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Has a function called with an actor's process id and each kind of message that the pool hears from it."""

    def install(hook: Callable[[int, str], None]) -> None:
        hear, pids = Pool._on_message, {}

        def heard(self: Any, name: str, kind: str, content: Any) -> None:
            hear(self, name, kind, content)
            if kind == "started":
                pids[name] = int(content.split()[1])
            hook(pids.get(name, 0), kind)

        monkeypatch.setattr(Pool, "_on_message", heard)

    return install


def on_cluster(config: TeacherConfig) -> TeacherConfig:
    return replace(config, workers=2, cluster="ray")


def test_a_killed_actors_shard_and_a_hanging_ones_go_to_others_and_the_pass_is_whole(
    config: TeacherConfig,
    whole: Path,
    cluster: Any,
    when_heard: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(pool, "SILENCE_SECONDS", 8.0)
    faults, struck = [signal.SIGKILL, signal.SIGSTOP], list[int]()

    def strike(pid: int, kind: str) -> None:
        if kind == "idle" and faults and pid not in struck:
            struck.append(pid)
            threading.Timer(0.1, os.kill, (pid, faults.pop(0))).start()

    when_heard(strike)
    store = run(on_cluster(config))
    assert not faults
    assert contents(store.path) == contents(whole)
    said = capfd.readouterr().err
    assert "is lost (The actor" in said
    assert "is lost (silent for 8 s)" in said
    assert "18 images in" in said, "an image that was asked twice was counted twice"
    assert not prepare(config).missing


@pytest.mark.usefixtures("lent")
def test_a_lost_nodes_shard_goes_to_the_node_that_is_left_and_the_pass_is_whole(
    config: TeacherConfig,
    tmp_path: Path,
    cluster: Any,
    when_heard: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """The first node gets no shard until the second is down: an actor that starts earlier could end the pass alone."""
    raylet = cluster.second.all_processes["raylet"][0].process.pid
    written, down = list[int](), list[int]()
    hand_out = Pool._hand_out

    def take_the_node_down(pid: int, kind: str) -> None:
        if down or psutil.Process(pid).ppid() != raylet:
            return
        if kind == "done":
            written.append(pid)
        elif kind == "progress" and written:  # it has another shard in hand
            down.append(pid)
            cluster.remove_node(cluster.second, allow_graceful=False)

    def to_the_second_node(self: Pool) -> None:
        idle = [] if down else [worker for worker in self._workers.values() if worker.idle]
        held = [worker for worker in idle if psutil.Process(int(worker.where.split()[1])).ppid() != raylet]
        for worker in held:
            worker.idle = False
        hand_out(self)
        for worker in held:
            worker.idle = True

    monkeypatch.setattr(Pool, "_hand_out", to_the_second_node)
    config = replace(config, shard_size=2)
    uninterrupted = run(replace(config, artifacts=str(tmp_path / "uninterrupted")))
    when_heard(take_the_node_down)
    store = run(on_cluster(config))
    assert down, "the second node's actor wrote no shard"
    assert "is lost" in capfd.readouterr().err
    assert contents(store.path) == contents(uninterrupted.path)


def test_an_actor_that_refuses_the_pass_ends_it_in_its_own_words(config: TeacherConfig, cluster: Any) -> None:
    path = prepare(config).store.path
    reseeded = on_cluster(replace(config, data=replace(config.data, seed=5)))
    progress = Progress(Tolerance(path, 0.0, 18), images=18, shown=False)
    opener = partial(TeacherWorker, reseeded, path)
    with Stop() as stop, pytest.raises(SekdError, match=r"^worker-0: .*data changed since this pass was planned"):
        run_jobs([0], opener, progress, engine=config.engine, workers=2, stop=stop, unit="shard", cluster="ray")


def test_an_actor_that_no_node_can_hold_is_refused_at_once(config: TeacherConfig, cluster: Any) -> None:
    large = on_cluster(replace(config, engine=replace(config.engine, threads=64)))
    with pytest.raises(SekdError, match="has room for a worker: each needs 64 CPUs and 0 GPUs on one node"):
        run(large)


def test_actors_that_find_no_room_end_the_pass_in_the_end(
    config: TeacherConfig, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "START_SECONDS", 2.0)
    monkeypatch.setattr(RayPool, "_fits", lambda self: True)
    large = on_cluster(replace(config, engine=replace(config.engine, threads=64)))
    with pytest.raises(SekdError, match="no worker was ready within 2 s: each needs 64 CPUs"):
        run(large)
