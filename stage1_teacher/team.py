"""Several engines on one machine: a process each, which takes the next missing shard when it is done with the last."""

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.inference.cards import cards_of_workers
from stage1_teacher.config import TeacherConfig
from stage1_teacher.shard import Report
from stage1_teacher.shard_queue import SILENCE_SECONDS, START_SECONDS, ShardQueue
from stage1_teacher.stats import Stats
from stage1_teacher.stop import Stop, Stopped

POLL_SECONDS = 0.2
Message = tuple[str, Any]


@dataclass
class Member:
    """A worker process as its parent sees it."""

    name: str
    process: BaseProcess
    pipe: Connection
    idle: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + START_SECONDS)  # for its next word


def run_team(config: TeacherConfig, path: Path, shards: Sequence[int], *, report: Report, stop: Stop) -> None:
    """Ask all shards with ``config.workers`` engines.

    Raises:
        SekdError: no worker is left, or a shard went down with several of them; what was written stays.
        Stopped: a signal came.
    """
    queue = ShardQueue(shards)
    count = min(config.workers, len(shards))
    cards = cards_of_workers(config.engine, count)
    members = [_start(config, path, slot, cards[slot]) for slot in range(count)]
    try:
        while queue.open:
            stop.check()
            if not members:
                raise SekdError(f"every worker is lost; shards {queue.given_up or 'in hand'} were not written")
            for member in _ready(members):
                if not _listen(member, queue, report):
                    members.remove(member)
                    _mourn(member, queue)
            for member in members:
                _hand_out(member, queue)
                _kill_if_silent(member)
    finally:
        _dismiss(members)
    if queue.given_up:
        raise SekdError(f"shards {queue.given_up} went down with one worker after another and were given up")


def _start(config: TeacherConfig, path: Path, slot: int, cards: str | None) -> Member:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_member_main, args=(there, config, path, cards), name=f"worker-{slot}")
    process.start()
    there.close()
    return Member(process.name, process, here)


def _ready(members: Sequence[Member]) -> list[Member]:
    """Members that have something to say, or are gone."""
    by_handle = {member.pipe: member for member in members} | {member.process.sentinel: member for member in members}
    heard = wait(list(by_handle), timeout=POLL_SECONDS)
    return list({by_handle[handle].name: by_handle[handle] for handle in heard}.values())  # type: ignore[index]


def _listen(member: Member, queue: ShardQueue, report: Report) -> bool:
    """Take what a member says; False once it is gone."""
    try:
        while member.pipe.poll():
            kind, content = member.pipe.recv()
            member.deadline = time.monotonic() + SILENCE_SECONDS
            if kind == "idle":
                member.idle = True
            elif kind == "stats":
                report(content)
            elif kind == "written":
                queue.written(member.name, content)
                report(Stats(shards=1))
            else:
                raise SekdError(f"{member.name}: {content}")
    except (EOFError, ConnectionResetError):
        return False
    return member.process.is_alive() or member.pipe.poll()


def _hand_out(member: Member, queue: ShardQueue) -> None:
    if member.idle and (shard := queue.next_for(member.name)) is not None:
        member.idle = False
        member.deadline = time.monotonic() + SILENCE_SECONDS
        try:
            member.pipe.send(shard)
        except (BrokenPipeError, ConnectionResetError):
            return  # its end is noticed on the next round, and the shard goes to another


def _kill_if_silent(member: Member) -> None:
    """End a worker that hangs; its end is noticed on the next round."""
    if not member.idle and time.monotonic() > member.deadline:
        print(f"{member.name} has been silent for too long and is ended", file=sys.stderr)
        member.process.kill()


def _mourn(member: Member, queue: ShardQueue) -> None:
    member.process.join()
    dropped = queue.lost(member.name)
    how = f"exit status {member.process.exitcode}"
    print(f"{member.name} is lost ({how}); shards {dropped} go to another worker", file=sys.stderr)


def _dismiss(members: Sequence[Member]) -> None:
    """Send everybody home: done ones leave by themselves when the pipe closes, others on SIGTERM."""
    for member in members:
        member.pipe.close()
        if not member.idle:
            member.process.terminate()
    for member in members:
        member.process.join(timeout=30)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()


# --- in the worker process ---


def _member_main(pipe: Connection, config: TeacherConfig, path: Path, cards: str | None) -> None:
    if cards is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards
    from stage1_teacher.worker import Worker

    line = _Line(pipe)
    with Stop() as stop:

        def report(stats: Stats) -> None:
            stop.check()
            line.say("stats", stats)

        try:
            with Worker(config, path, at_once=stop.at_once) as worker:
                worker.work(line.shards(stop), report=report, written=lambda index: line.say("written", index))
        except (Stopped, BrokenPipeError, ConnectionResetError):
            sys.exit(1)
        except SekdError as error:
            line.say("failed", str(error))
        except Exception:
            traceback.print_exc()
            sys.exit(1)


class _Line:
    """The worker's end of the pipe; its writing thread speaks too."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def say(self, kind: str, content: Any) -> None:
        with self._lock:
            self._pipe.send((kind, content))

    def shards(self, stop: Stop) -> Iterator[int]:
        """Shards as they are handed out, until the other end is closed."""
        while True:
            self.say("idle", None)
            while not self._pipe.poll(POLL_SECONDS):
                stop.check()
            try:
                yield self._pipe.recv()
            except EOFError:
                return
