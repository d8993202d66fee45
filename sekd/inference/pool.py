"""A pool of workers that each hold one engine and take jobs from one queue: in this process, in processes, or on Ray.

The pool knows a job only as a value that can be pickled and hashed, and a worker as what ``open_worker`` returns.
Both come from the stage that uses the pool.

- The job of a worker that dies goes back to the queue, and another worker is started in its place. Both are limited.
- A worker that has a job and reports nothing for ``SILENCE_SECONDS`` is ended, and counts as lost.
- An error that a worker raises ends the run at once, with that error's own message.
- A signal ends the run: every worker finishes what it is writing, and exits.
"""

import os
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sekd.errors import SekdError
from sekd.inference.cards import cards_of_workers
from sekd.inference.config import EngineConfig
from sekd.stop import Stop

POLL_SECONDS = 0.2
SILENCE_SECONDS = 1800.0
START_SECONDS = 3600.0  # for a worker to load its engine, and on a cluster to find room, while no other has a job
REPLACEMENTS = 3  # workers that may be started anew, for each that was asked for

Job = Hashable
Message = tuple[str, str, Any]  # worker, kind (started, idle, progress, done, failed or lost), content


class Worker(Protocol):
    """Holds an engine and does jobs in the order in which they are handed out.

    ``progress`` takes news of the last job that was handed out, ``done`` the result of the first one that is not done:
    a worker may begin a job while it still writes the one before.
    """

    def work(self, jobs: Iterable[Any], *, progress: Callable[[Any], None], done: Callable[[Any], None]) -> None: ...

    def close(self) -> None: ...


class Listener(Protocol):
    """Hears how the jobs get on. ``requeued``: the worker is lost, the job begins anew, its news come once more."""

    def progress(self, job: Any, news: Any) -> None: ...

    def done(self, job: Any, result: Any) -> None: ...  # a lone worker calls it in whichever thread it likes

    def requeued(self, job: Any) -> None: ...


class Backend(Protocol):
    """Starts and ends workers somewhere, and carries jobs to them and their messages back."""

    def start(self, name: str) -> None: ...

    def send(self, name: str, job: Job) -> None: ...

    def receive(self, timeout: float) -> list[Message]: ...  # in each worker's own order

    def kill(self, name: str) -> None: ...

    def shutdown(self, busy: Sequence[str]) -> None: ...  # the workers that are not idle

    def room(self) -> str: ...  # the end of the sentence that no worker was ready


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
        engine: how each worker's engine runs; says how many GPUs and cores it takes.
        workers: engines, of which no more are started than there are jobs; one alone runs in this process.
        unit: what a job is called in messages.
        cluster: "ray" starts the workers on a Ray cluster; None on this machine.

    Raises:
        SekdError: an error of a worker, too few GPUs, or workers that are lost again and again. What is done stays.
        Stopped: a signal came.
    """
    size = min(workers, len(jobs))
    pool = Pool(jobs, listener, size=size, stop=stop, unit=unit)
    if cluster == "ray":
        from sekd.inference.ray_pool import ray_actors

        with ray_actors(open_worker, engine) as actors:
            pool.run(actors)
    elif size > 1:
        from sekd.inference.local_pool import LocalProcesses

        pool.run(LocalProcesses(open_worker, cards_of_workers(engine, size)))
    else:
        pool.run_here(open_worker)


class JobQueue:
    """Which worker has which job. A job stays with its worker until it is done.

    A job that was with ``attempts`` lost workers is given out no more: it may be what kills them.
    """

    def __init__(self, jobs: Iterable[Job], *, attempts: int = 3) -> None:
        self.waiting = deque(jobs)
        self._held: dict[str, list[Job]] = {}
        self._losses: dict[Job, int] = {}
        self._attempts = attempts

    @property
    def open(self) -> bool:
        """Whether a job is neither done nor given up."""
        return bool(self.waiting) or any(self._held.values())

    @property
    def given_up(self) -> list[Job]:
        """Jobs that were with too many lost workers."""
        return [job for job, losses in self._losses.items() if losses >= self._attempts]

    def held(self, worker: str) -> list[Job]:
        """The jobs that are with a worker, in the order in which they were handed out."""
        return self._held.setdefault(worker, [])

    def next_for(self, worker: str) -> Job | None:
        """A job for a worker; None where none waits."""
        if not self.waiting:
            return None
        self.held(worker).append(self.waiting.popleft())
        return self.held(worker)[-1]

    def done(self, worker: str) -> Job:
        """The first job that a worker has is done."""
        return self.held(worker).pop(0)

    def lost(self, worker: str) -> list[Job]:
        """The jobs of a lost worker, which wait for another one."""
        jobs = self._held.pop(worker, [])
        for job in jobs:
            self._losses[job] = self._losses.get(job, 0) + 1
            if self._losses[job] < self._attempts:
                self.waiting.appendleft(job)
        return jobs


@dataclass
class _State:
    """What the pool knows of a worker."""

    where: str = "starting"
    idle: bool = False
    heard: float = field(default_factory=time.monotonic)


class Pool:
    """Hands out jobs to workers; see ``run_jobs``."""

    _backend: Backend

    def __init__(self, jobs: Sequence[Job], listener: Listener, *, size: int, stop: Stop, unit: str) -> None:
        self._listener, self._size, self._stop, self._unit = listener, size, stop, unit
        self._queue = JobQueue(jobs)
        self._workers: dict[str, _State] = {}
        self._started = 0
        self._at_work = time.monotonic()  # when a worker last had a job

    def run_here(self, open_worker: Callable[[], Worker]) -> None:
        """Do all jobs with one worker in this process."""

        def progress(news: Any) -> None:
            self._stop.check()
            self._listener.progress(self._queue.held("")[-1], news)

        def done(result: Any) -> None:
            self._listener.done(self._queue.done(""), result)

        with self._stop.at_once():
            worker = open_worker()
        with closing(worker):
            worker.work(iter(partial(self._queue.next_for, ""), None), progress=progress, done=done)

    def run(self, backend: Backend) -> None:
        """Do all jobs with the workers of a backend."""
        self._backend = backend
        try:
            for _ in range(self._size):
                self._start()
            while self._queue.open:
                self._stop.check()
                for name, kind, content in self._backend.receive(POLL_SECONDS):
                    if name in self._workers:  # not one that was ended since
                        self._hear(name, kind, content)
                self._hand_out()
                self._end_silent()
        finally:
            self._backend.shutdown([name for name, worker in self._workers.items() if not worker.idle])
        if self._queue.given_up:
            raise SekdError(f"{self._unit}s {self._queue.given_up} were given up: each worker that had one was lost")

    def _start(self) -> None:
        if self._started == self._size * (1 + REPLACEMENTS):
            if self._workers:
                return  # those that are left do the rest
            raise SekdError(f"{self._started} workers were started and lost; what was written stays")
        name = f"worker-{self._started}"
        self._started += 1
        self._backend.start(name)
        self._workers[name] = _State()

    def _hear(self, name: str, kind: str, content: Any) -> None:
        worker = self._workers[name]
        worker.heard = time.monotonic()
        if kind == "started":
            worker.where = content
        elif kind == "idle":
            worker.idle = True
        elif kind == "progress":
            self._listener.progress(self._queue.held(name)[-1], content)
        elif kind == "done":
            self._listener.done(self._queue.done(name), content)
        elif kind == "failed":
            raise SekdError(f"{name}: {content}")
        else:
            self.on_worker_lost(name, content)

    def _hand_out(self) -> None:
        for name, worker in self._workers.items():
            if worker.idle and (job := self._queue.next_for(name)) is not None:
                worker.idle, worker.heard = False, time.monotonic()
                self._backend.send(name, job)

    def _end_silent(self) -> None:
        now = time.monotonic()
        for name, worker in list(self._workers.items()):
            if self._queue.held(name):
                self._at_work = now
                if now - worker.heard > SILENCE_SECONDS:
                    self._backend.kill(name)
                    self.on_worker_lost(name, f"silent for {SILENCE_SECONDS:.0f} s")
        if now - self._at_work > START_SECONDS:
            raise SekdError(f"no worker was ready within {START_SECONDS:.0f} s{self._backend.room()}")

    def on_worker_lost(self, name: str, why: str) -> None:
        """Put its jobs back, and start another worker if a job waits."""
        self._stop.check()
        where = self._workers.pop(name).where
        jobs = self._queue.lost(name)
        for job in jobs:
            self._listener.requeued(job)
        rest = f": {self._unit}s {jobs} go to another worker" if jobs else ""
        print(f"{name} ({where}) is lost ({why}){rest}", file=sys.stderr)
        if self._queue.waiting:
            self._start()


# --- in the worker's process ---


def serve(
    open_worker: Callable[[], Worker],
    *,
    say: Callable[[str, Any], None],
    take: Callable[[], list[Any]],
    stop: Stop,
) -> None:
    """Start a worker and let it do jobs until there are no more.

    Args:
        say: sends a message's kind and content to the pool, from any thread. It takes an error before the engine stops.
        take: the job that was handed out, or nothing after a short wait; an ``EOFError`` where there will be no more.
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
            raise  # the pool is gone
        except SekdError as error:
            say("failed", str(error))
        except Exception as error:
            traceback.print_exc()
            say("failed", f"{type(error).__name__}: {error}; what was written stays")
