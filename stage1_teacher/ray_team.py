"""Engines spread over a cluster by Ray: each actor takes the next missing shard, a lost actor's shard goes to another.

The store has to lie on a disk that every node sees, under the same path, and the project be installed on every node.
Without ``RAY_ADDRESS`` in the environment Ray starts on this machine alone.

Ray notices actors and nodes that die. It does not notice an actor that hangs, so each says now and then that it goes
on, and one that has been silent for too long counts as lost.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from stage1_teacher.config import TeacherConfig
from stage1_teacher.shard import Report
from stage1_teacher.shard_queue import SILENCE_SECONDS, START_SECONDS, ShardQueue
from stage1_teacher.stats import Stats
from stage1_teacher.stop import Stop

POLL_SECONDS = 0.2
WORD_SECONDS = 1.0  # an actor that goes on says so no more often
LOSSES = 3  # actors that may be lost for each that was asked for


def run_ray(config: TeacherConfig, path: Path, shards: Sequence[int], *, report: Report, stop: Stop) -> None:
    """Ask all shards with up to ``config.workers`` actors, as many as the cluster has room for.

    Raises:
        SekdError: Ray is not installed or cannot be reached, no node has room for an actor, actors keep being lost,
            or one of them refuses the pass. What was written stays.
        Stopped: a signal came.
    """
    try:
        import ray
    except ImportError:
        raise SekdError("cluster=ray needs Ray: pip install 'sekd[ray]'") from None
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SekdError(f"no Ray cluster at RAY_ADDRESS={address}: {_first_line(error)}") from error
    try:
        _Crew(ray, config, path.resolve(), shards).work(report, stop)
    except ray.exceptions.RayError as error:
        raise SekdError(f"Ray failed ({_first_line(error)}); what was written stays, run the same command") from error
    finally:
        ray.shutdown()


class _Crew:
    """The actors and what each is doing: starting up, or asking a shard."""

    def __init__(self, ray: Any, config: TeacherConfig, path: Path, shards: Sequence[int]) -> None:
        self._ray, self._config, self._path = ray, config, path
        self._queue = ShardQueue(shards)
        self._size = min(config.workers, len(shards))
        self._hired = 0
        self._actors: dict[str, Any] = {}
        self._busy: dict[Any, tuple[str, int | None]] = {}  # running call -> actor, its shard
        self._heard: dict[str, float] = {}  # actor -> when it last said that it goes on
        self._at_work = time.monotonic()  # when an actor last had a shard: while one has, others may wait for room
        engine = config.engine
        on_gpu = engine.device == "cuda"
        self._needs = {
            "num_cpus": engine.readers if on_gpu else engine.threads,
            "num_gpus": engine.tensor_parallel_size if on_gpu else 0,
        }
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._ear = ray.remote(num_cpus=0, scheduling_strategy=here)(Ear).remote()

    def work(self, report: Report, stop: Stop) -> None:
        if not self._fits():
            raise SekdError(f"no node of the Ray cluster has room for an actor: {self._room()}")
        for _ in range(self._size):
            self._hire()
        while self._queue.open:
            stop.check()
            self._hand_out()
            done, _ = self._ray.wait(list(self._busy), timeout=POLL_SECONDS)
            for call in done:
                self._take(call, report)
            self._listen()
        if self._queue.given_up:
            raise SekdError(f"shards {self._queue.given_up} went down with one actor after another")

    def _fits(self) -> bool:
        """Whether a node that is up could ever hold an actor."""
        cpus, gpus = self._needs["num_cpus"], self._needs["num_gpus"]
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes)

    def _room(self) -> str:
        there = self._ray.cluster_resources()
        return (
            f"each needs {self._needs['num_cpus']} CPUs and {self._needs['num_gpus']} GPUs on one node, and all nodes "
            f"together have {there.get('CPU', 0):.0f} CPUs and {there.get('GPU', 0):.0f} GPUs"
        )

    def _hire(self) -> None:
        if self._hired >= self._size * (1 + LOSSES):
            if self._actors:
                return  # those that are left finish the pass
            raise SekdError(f"{self._hired} Ray actors were started and lost; what was written stays")
        self._hired += 1
        name = f"actor-{self._hired}"
        actor = self._ray.remote(**self._needs, max_restarts=0)(Actor).remote(name, self._ear)
        self._actors[name] = actor
        self._busy[actor.start.remote(self._config, self._path, str(Path.cwd()))] = (name, None)

    def _hand_out(self) -> None:
        engaged = {name for name, _ in self._busy.values()}
        for name in [name for name in self._actors if name not in engaged]:
            if (shard := self._queue.next_for(name)) is not None:
                self._heard[name] = time.monotonic()
                self._busy[self._actors[name].ask.remote(shard)] = (name, shard)

    def _take(self, call: Any, report: Report) -> None:
        name, shard = self._busy.pop(call)
        try:
            stats = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise SekdError(f"{name}: {error.cause or error}") from error
        except self._ray.exceptions.RayActorError as error:
            self._lose(name, _first_line(error))
            return
        if shard is not None:
            self._queue.written(name, shard)
            report(stats)
            report(Stats(shards=1))

    def _listen(self) -> None:
        """Hear who goes on, and give up those that do not."""
        now = time.monotonic()
        self._heard |= dict.fromkeys(self._ray.get(self._ear.heard.remote()), now)
        for call, (name, shard) in list(self._busy.items()):
            if shard is None:
                continue
            self._at_work = now
            if now - self._heard[name] > SILENCE_SECONDS:
                del self._busy[call]
                self._lose(name, f"silent for {SILENCE_SECONDS:.0f} s")
        if now - self._at_work > START_SECONDS:
            raise SekdError(f"no Ray actor was ready within {START_SECONDS:.0f} s: {self._room()}")

    def _lose(self, name: str, why: str) -> None:
        self._ray.kill(self._actors.pop(name))  # one that is out of reach must not go on beside its successor
        dropped = self._queue.lost(name)
        print(f"{name} is lost ({why}); shards {dropped} go to another", file=sys.stderr)
        self._hire()


class Ear:
    """Beside the driver: hears from actors while their calls run."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def say(self, name: str) -> None:
        """An actor goes on."""
        self._names.add(name)

    def heard(self) -> set[str]:
        """Who said so since the last call."""
        names, self._names = self._names, set()
        return names


class Actor:
    """One engine somewhere on the cluster."""

    def __init__(self, name: str, ear: Any) -> None:
        self._name, self._ear = name, ear
        self._said = 0.0

    def start(self, config: TeacherConfig, path: Path, folder: str) -> int:
        """Start the engine: the actor's process id. An error here comes back as it is, one in ``__init__`` does not."""
        os.chdir(folder)  # the configuration's relative paths are the driver's
        from stage1_teacher.worker import Worker

        self._worker = Worker(config, path, at_once=nullcontext)
        return os.getpid()

    def ask(self, shard: int) -> Stats:
        """Ask and write one shard."""
        counted: list[Stats] = []

        def report(stats: Stats) -> None:
            counted.append(stats)
            if time.monotonic() - self._said > WORD_SECONDS:
                self._said = time.monotonic()
                self._ear.say.remote(self._name)

        self._worker.work([shard], report=report, written=lambda index: None)
        return sum(counted, Stats())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
