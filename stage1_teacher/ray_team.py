"""Engines spread over a cluster by Ray: each actor takes the next missing shard, a lost actor's shard goes to another.

The store has to lie on a disk that every node sees, under the same path, and the project be installed on every node.
Without ``RAY_ADDRESS`` in the environment Ray starts on this machine alone.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from stage1_teacher.config import TeacherConfig
from stage1_teacher.dispatch import Dispatch
from stage1_teacher.shard import Report
from stage1_teacher.stop import Stop
from stage1_teacher.tally import Tally

POLL_SECONDS = 0.2
LOSSES = 3  # actors that may be lost for each that was asked for


def run_ray(config: TeacherConfig, path: Path, shards: Sequence[int], *, report: Report, stop: Stop) -> None:
    """Ask all shards with up to ``config.workers`` actors, as many as the cluster has room for.

    Raises:
        SekdError: Ray is not installed, actors keep being lost, or one of them refuses the pass.
        Stopped: a signal came.
    """
    try:
        import ray
    except ImportError:
        raise SekdError("cluster=ray needs Ray: pip install 'sekd[ray]'") from None
    ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, configure_logging=False)
    crew = _Crew(ray, config, path.resolve(), shards)
    try:
        crew.work(report, stop)
    finally:
        ray.shutdown()


class _Crew:
    """The actors and what each is doing: starting up, or asking a shard."""

    def __init__(self, ray: Any, config: TeacherConfig, path: Path, shards: Sequence[int]) -> None:
        self._ray, self._config, self._path = ray, config, path
        self._dispatch = Dispatch(shards)
        self._size = min(config.workers, len(shards))
        self._hired = 0
        self._actors: dict[str, Any] = {}
        self._busy: dict[Any, tuple[str, int | None]] = {}  # running call -> actor, its shard

    def work(self, report: Report, stop: Stop) -> None:
        for _ in range(self._size):
            self._hire()
        while self._dispatch.open:
            stop.check()
            self._hand_out()
            done, _ = self._ray.wait(list(self._busy), timeout=POLL_SECONDS)
            for call in done:
                self._take(call, report)
        if self._dispatch.given_up:
            raise SekdError(f"shards {self._dispatch.given_up} went down with one actor after another")

    def _hire(self) -> None:
        if self._hired >= self._size * (1 + LOSSES):
            raise SekdError(f"{self._hired} Ray actors were started and lost; what was written stays")
        self._hired += 1
        name = f"actor-{self._hired}"
        engine = self._config.engine
        on_gpu = engine.device == "cuda"
        remote = self._ray.remote(
            num_cpus=engine.readers if on_gpu else engine.threads,
            num_gpus=engine.tensor_parallel_size if on_gpu else 0,
            max_restarts=0,
        )(Actor)
        actor = remote.remote(self._config, self._path, str(Path.cwd()))
        self._actors[name] = actor
        self._busy[actor.ready.remote()] = (name, None)

    def _hand_out(self) -> None:
        engaged = {name for name, _ in self._busy.values()}
        for name in [name for name in self._actors if name not in engaged]:
            if (shard := self._dispatch.next_for(name)) is not None:
                self._busy[self._actors[name].ask.remote(shard)] = (name, shard)

    def _take(self, call: Any, report: Report) -> None:
        name, shard = self._busy.pop(call)
        try:
            tally = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise SekdError(f"{name}: {error.cause or error}") from error
        except self._ray.exceptions.RayActorError as error:
            del self._actors[name]
            dropped = self._dispatch.lost(name)
            print(f"{name} is lost ({str(error).splitlines()[0]}); shards {dropped} go to another", file=sys.stderr)
            self._hire()
            return
        if shard is not None:
            self._dispatch.written(name, shard)
            report(tally)
            report(Tally(shards=1))


class Actor:
    """One engine somewhere on the cluster."""

    def __init__(self, config: TeacherConfig, path: Path, folder: str) -> None:
        os.chdir(folder)  # the configuration's relative paths are the driver's
        from stage1_teacher.worker import Worker

        self._worker = Worker(config, path, at_once=nullcontext)

    def ready(self) -> int:
        """Answers once the engine has started: the actor's process id."""
        return os.getpid()

    def ask(self, shard: int) -> Tally:
        """Ask and write one shard."""
        tallies: list[Tally] = []
        self._worker.work([shard], report=tallies.append, written=lambda index: None)
        return sum(tallies, Tally())
