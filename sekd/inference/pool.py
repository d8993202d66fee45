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
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
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


class Jobs(Iterator[Any]):
    """A worker's end of the queue: the next of it waits for a job.

    Args:
        take: the next job as a list of one, or an empty list after so many seconds; ``EOFError`` at the queue's end.
        ask: says once for each job that the worker wants it.
    """

    def __init__(
        self, take: Callable[[float], list[Any]], *, stop: Stop, ask: Callable[[], None] = lambda: None
    ) -> None:
        self._take, self._stop, self._ask = take, stop, ask
        self._asked = False

    def __next__(self) -> Any:
        try:
            while not (job := self._next(POLL_SECONDS)):
                self._stop.check()
            return job[0]
        except EOFError:
            raise StopIteration from None

    def ready(self) -> Any | None:
        """The next job, or None where there is none now. Later there may be one: that of a lost worker."""
        try:
            return next(iter(self._next(0.0)), None)
        except EOFError:
            return None

    def _next(self, timeout: float) -> list[Any]:
        if not self._asked:
            self._asked = True
            self._ask()
        job = self._take(timeout)
        self._asked = not job
        return job


class Worker(Protocol):
    """Does jobs, and may begin one while others are not done; ``progress`` and ``done`` name the job."""

    def work(self, jobs: Jobs, *, progress: Callable[[Any, Any], None], done: Callable[[Any, Any], None]) -> None: ...
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
        return
    from sekd.inference.local_pool import LocalProcesses, cards_of_workers

    cards = cards_of_workers(engine, size)
    if size > 1:
        pool.run(LocalProcesses(open_worker, cards))
    else:
        _run_here(jobs, open_worker, listener, stop)


def _run_here(jobs: Sequence[Job], open_worker: Callable[[], Worker], listener: Listener, stop: Stop) -> None:
    waiting = deque(jobs)

    def take(timeout: float) -> list[Job]:
        if not waiting:
            raise EOFError
        return [waiting.popleft()]

    def progress(job: Job, news: Any) -> None:
        stop.check()
        listener.progress(job, news)

    with stop.at_once():
        worker = open_worker()
    with closing(worker):
        worker.work(Jobs(take, stop=stop), progress=progress, done=listener.done)


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
            backend.shutdown([name for name, worker in self._workers.items() if worker.jobs or not worker.idle])
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
            self._listener.progress(*content)
        elif kind == "done":
            worker.jobs.remove(content[0])
            self._listener.done(*content)
        elif kind == "failed":
            raise SekdError(f"{name}: {content}")
        else:
            self.on_worker_lost(name, content)

    def _hand_out(self) -> None:
        for name, worker in sorted(self._workers.items(), key=lambda each: len(each[1].jobs)):
            if worker.idle and self._waiting and self._may_take(worker, self._waiting[0]):
                worker.idle, worker.heard = False, time.monotonic()
                worker.jobs.append(self._waiting.popleft())
                self._backend.send(name, worker.jobs[-1])

    def _may_take(self, worker: _State, job: Job) -> bool:
        """A job that lost a worker is done alone: if it is the cause, no other is lost with it."""
        return not worker.jobs or not any(self._losses[each] for each in (job, *worker.jobs))

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
    open_worker: Callable[[], Worker],
    *,
    say: Callable[[str, Any], None],
    take: Callable[[float], list[Any]],
    stop: Stop,
) -> None:
    """The worker's side: do jobs until the queue ends.

    Args:
        say: sends a message's kind and content to the pool, from any thread; errors are sent before the engine stops.
        take: see ``Jobs``.
    """

    def progress(job: Job, news: Any) -> None:
        stop.check()
        say("progress", (job, news))

    with ExitStack() as stack:
        try:
            say("started", f"process {os.getpid()} on {socket.gethostname()}")
            with stop.at_once():
                worker = stack.enter_context(closing(open_worker()))
            jobs = Jobs(take, stop=stop, ask=lambda: say("idle", None))
            worker.work(jobs, progress=progress, done=lambda job, result: say("done", (job, result)))
        except (BrokenPipeError, ConnectionResetError):
            raise  # the pool has ended
        except SekdError as error:
            say("failed", str(error))
        except Exception as error:
            traceback.print_exc()
            say("failed", f"{type(error).__name__}: {error}; what was written stays")
