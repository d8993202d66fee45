"""A pool of workers with one engine each, which take jobs from one queue: in this process, in processes, or on Ray.

To the pool a job is any value that can be pickled and hashed, a worker what ``open_worker`` returns.

- The job of a worker that dies returns to the queue, and another worker is started. Both are limited.
- A worker with a job that reports nothing for ``SILENCE_SECONDS`` is killed and counts as lost.
- An error that a worker raises ends the run at once, with that error's message.
- A signal ends the run: every local worker finishes its writing and exits.
"""

import os
import socket
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.stop import Stop

POLL_SECONDS = 0.2
SILENCE_SECONDS = 1800.0
START_SECONDS = 3600.0  # to load a worker's engine, and on a cluster to be scheduled, while no other has a job
ATTEMPTS = 3  # a job that lost this many workers is given up: it may be the cause
REPLACEMENTS = 3  # restarts allowed for each worker

Job = Hashable
Message = tuple[str, str, Any]  # worker, kind (started, idle, progress, done, failed or lost), content


class Worker(Protocol):
    """Does jobs in order, and may begin one while it still writes the previous one.

    ``progress`` reports on the latest job, ``done`` the result of the oldest unfinished one.
    """

    def work(self, jobs: Iterable[Any], *, progress: Callable[[Any], None], done: Callable[[Any], None]) -> None: ...
    def close(self) -> None: ...


class Listener(Protocol):
    """Callbacks on the jobs' progress. A requeued job starts again, and reports again."""

    def progress(self, job: Any, news: Any) -> None: ...
    def done(self, job: Any, result: Any) -> None: ...
    def requeued(self, job: Any) -> None: ...


class Backend(Protocol):
    """Starts and ends workers, and transports jobs and messages."""

    def start(self, name: str) -> None: ...
    def send(self, name: str, job: Job) -> None: ...
    def receive(self, timeout: float) -> list[Message]: ...
    def kill(self, name: str) -> None: ...
    def shutdown(self, busy: Sequence[str]) -> None: ...
    @property
    def room(self) -> str: ...  # the reason why no worker was ready, as the end of a sentence


def run_jobs(
    jobs: Sequence[Job],
    open_worker: Callable[[], Worker],
    listener: Listener,
    *,
    engine: EngineConfig,
    workers: int,
    stop: Stop,
    unit: str,
    cluster: str | None = None,
) -> None:
    """Do all jobs.

    Args:
        open_worker: starts a worker with its engine; pickled unless the worker runs in this process.
        listener: with a worker in this process, ``done`` may be called from another thread.
        engine: the GPUs and cores of a worker.
        workers: at most one a job; a single one runs in this process.
        unit: the name of a job in messages.
        cluster: "ray" starts the workers on a Ray cluster; None on this machine.

    Raises:
        SekdError: an error of a worker, too few GPUs, or workers that are lost repeatedly. Finished jobs are kept.
        Stopped: a signal came.
    """
    size = min(workers, len(jobs))
    pool = Pool(jobs, listener, size=size, stop=stop, unit=unit)
    if cluster == "ray":
        from sekd.inference.ray_pool import ray_actors

        with ray_actors(open_worker, engine) as actors:
            pool.run(actors)
    elif size > 1:
        from sekd.inference.local_pool import LocalProcesses, cards_of_workers

        pool.run(LocalProcesses(open_worker, cards_of_workers(engine, size)))
    else:
        _run_here(jobs, open_worker, listener, stop)


def _run_here(jobs: Sequence[Job], open_worker: Callable[[], Worker], listener: Listener, stop: Stop) -> None:
    begun: deque[Job] = deque()

    def hand_out() -> Iterator[Job]:
        for job in jobs:
            begun.append(job)
            yield job

    def progress(news: Any) -> None:
        stop.check()
        listener.progress(begun[-1], news)

    with stop.at_once():
        worker = open_worker()
    with closing(worker):
        worker.work(hand_out(), progress=progress, done=lambda result: listener.done(begun.popleft(), result))


@dataclass
class _State:
    """The pool's record of a worker: its jobs and the time of its last message."""

    where: str = "starting"
    idle: bool = False
    jobs: list[Job] = field(default_factory=list)
    heard: float = field(default_factory=time.monotonic)


class Pool:
    """Assigns jobs to workers; see ``run_jobs``."""

    _backend: Backend

    def __init__(self, jobs: Sequence[Job], listener: Listener, *, size: int, stop: Stop, unit: str) -> None:
        self._listener, self._size, self._stop, self._unit = listener, size, stop, unit
        self._waiting = deque(jobs)
        self._losses: Counter[Job] = Counter()
        self._workers: dict[str, _State] = {}
        self._started = 0
        self._at_work = time.monotonic()  # when a worker last had a job

    def run(self, backend: Backend) -> None:
        """Do all jobs."""
        self._backend = backend
        try:
            for _ in range(self._size):
                self._start()
            while self._waiting or any(worker.jobs for worker in self._workers.values()):
                self._stop.check()
                for name, kind, content in backend.receive(POLL_SECONDS):
                    if name in self._workers:  # unless it was ended in the meantime
                        self._on_message(name, kind, content)
                self._hand_out()
                self._end_silent()
        finally:
            backend.shutdown([name for name, worker in self._workers.items() if not worker.idle])
        if given_up := [job for job, losses in self._losses.items() if losses == ATTEMPTS]:
            raise SekdError(f"{self._unit}s {given_up} were given up: each of {ATTEMPTS} workers that had one was lost")

    def _start(self) -> None:
        if self._started == self._size * (1 + REPLACEMENTS):
            if self._workers:
                return  # the remaining workers do the rest
            raise SekdError(f"{self._started} workers were started and lost; what was written stays")
        name = f"worker-{self._started}"
        self._started += 1
        self._backend.start(name)
        self._workers[name] = _State()

    def _on_message(self, name: str, kind: str, content: Any) -> None:
        worker = self._workers[name]
        worker.heard = time.monotonic()
        if kind == "started":
            worker.where = content
        elif kind == "idle":
            worker.idle = True
        elif kind == "progress":
            self._listener.progress(worker.jobs[-1], content)
        elif kind == "done":
            self._listener.done(worker.jobs.pop(0), content)
        elif kind == "failed":
            raise SekdError(f"{name}: {content}")
        else:
            self.on_worker_lost(name, content)

    def _hand_out(self) -> None:
        for name, worker in self._workers.items():
            if worker.idle and self._waiting:
                worker.idle, worker.heard = False, time.monotonic()
                worker.jobs.append(self._waiting.popleft())
                self._backend.send(name, worker.jobs[-1])

    def _end_silent(self) -> None:
        now = time.monotonic()
        for name, worker in list(self._workers.items()):
            if worker.jobs:
                self._at_work = now
                if now - worker.heard > SILENCE_SECONDS:
                    self._backend.kill(name)
                    self.on_worker_lost(name, f"silent for {SILENCE_SECONDS:.0f} s")
        if now - self._at_work > START_SECONDS:
            raise SekdError(f"no worker was ready within {START_SECONDS:.0f} s{self._backend.room}")

    def on_worker_lost(self, name: str, why: str) -> None:
        """Requeue its jobs, and start another worker if a job waits."""
        self._stop.check()
        worker = self._workers.pop(name)
        for job in worker.jobs:
            self._listener.requeued(job)
            self._losses[job] += 1
            if self._losses[job] < ATTEMPTS:
                self._waiting.appendleft(job)
        rest = f": {self._unit}s {worker.jobs} go to another worker" if worker.jobs else ""
        print(f"{name} ({worker.where}) is lost ({why}){rest}", file=sys.stderr)
        if self._waiting:
            self._start()


def serve(
    open_worker: Callable[[], Worker], *, say: Callable[[str, Any], None], take: Callable[[], list[Any]], stop: Stop
) -> None:
    """The worker's side: do jobs until the queue ends.

    Args:
        say: sends a message's kind and content to the pool, from any thread; errors are sent before the engine stops.
        take: the next job, or nothing after a short wait; ``EOFError`` at the end of the queue.
    """

    def jobs() -> Iterator[Any]:
        while True:
            say("idle", None)
            try:
                while not (job := take()):
                    stop.check()
            except EOFError:
                return
            yield from job

    def progress(news: Any) -> None:
        stop.check()
        say("progress", news)

    with ExitStack() as stack:
        try:
            say("started", f"process {os.getpid()} on {socket.gethostname()}")
            with stop.at_once():
                worker = stack.enter_context(closing(open_worker()))
            worker.work(jobs(), progress=progress, done=partial(say, "done"))
        except (BrokenPipeError, ConnectionResetError):
            raise  # the pool has ended
        except SekdError as error:
            say("failed", str(error))
        except Exception as error:
            traceback.print_exc()
            say("failed", f"{type(error).__name__}: {error}; what was written stays")
