"""The pool's workers as processes of this machine, each with its own GPUs."""

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from sekd.errors import SekdError, Stopped
from sekd.inference.config import EngineConfig
from sekd.inference.pool import Job, Message, Worker, serve
from sekd.machine import ask_driver
from sekd.stop import Stop

EXIT_SECONDS = 30.0  # seconds for a worker to finish writing and exit


class LocalProcesses:
    """``cards`` are the workers' CUDA_VISIBLE_DEVICES; the replacement of a lost worker takes over its GPUs."""

    room = ""

    def __init__(self, open_worker: Callable[[], Worker], cards: Sequence[str | None]) -> None:
        self._open_worker = pickle.dumps(open_worker)
        self._free = list(reversed(cards))
        self._running: dict[str, tuple[BaseProcess, Connection, str | None]] = {}

    def start(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        cards = self._free.pop()
        process = context.Process(target=_main, args=(there, self._open_worker, cards), name=name)
        process.start()
        there.close()
        self._running[name] = (process, here, cards)

    def send(self, name: str, job: Job) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the next ``receive`` reports its end
            self._running[name][1].send(job)

    def receive(self, timeout: float) -> list[Message]:
        handles: dict[Any, str] = {}
        for name, (process, pipe, _) in self._running.items():
            handles |= {pipe: name, process.sentinel: name}
        names = dict.fromkeys(handles[handle] for handle in wait(list(handles), timeout))
        return [message for name in names for message in self._receive_from(name)]

    def _receive_from(self, name: str) -> Iterator[Message]:
        process, pipe, _ = self._running[name]
        ended = not process.is_alive()  # checked first: its last messages are still in the pipe
        try:
            while pipe.poll():
                yield (name, *pipe.recv())
        except (EOFError, ConnectionResetError):
            ended = True
        if ended:
            self._forget(name)
            yield name, "lost", f"exit status {process.exitcode}"

    def kill(self, name: str) -> None:
        self._running[name][0].kill()
        self._forget(name)

    def _forget(self, name: str) -> None:
        process, pipe, cards = self._running.pop(name)
        pipe.close()
        _end(process)
        self._free.append(cards)

    def shutdown(self, busy: Sequence[str]) -> None:
        """Idle workers exit when the pipe closes, others on SIGTERM."""
        for name, (process, pipe, _) in self._running.items():
            pipe.close()
            if name in busy:
                process.terminate()
        for process, _, _ in self._running.values():
            _end(process)


def _end(process: BaseProcess) -> None:
    process.join(EXIT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _main(pipe: Connection, open_worker: bytes, cards: str | None) -> None:
    if cards is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards
    lock = threading.Lock()

    def say(kind: str, content: Any) -> None:
        with lock:
            pipe.send((kind, content))

    def take(timeout: float) -> list[Any]:
        return [pipe.recv()] if pipe.poll(timeout) else []

    with Stop() as stop:
        try:
            serve(lambda: pickle.loads(open_worker)(), say=say, take=take, stop=stop)  # unpickling may import torch
        except (Stopped, BrokenPipeError, ConnectionResetError):
            sys.exit(1)


def cards_of_workers(engine: EngineConfig, workers: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each of ``workers`` processes; None on CPU, and where one process finds its GPU itself.

    No GPU is given to two. They come from this process's CUDA_VISIBLE_DEVICES (numbers, UUIDs or MIG names), else from
    the driver's list.

    Raises:
        SekdError: there are not enough, one is named twice, or one engine is to be split over MIG slices.
    """
    if engine.device == "cpu":
        return [None] * workers
    each, visible = engine.tensor_parallel_size, os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        source, names = "the driver lists", [str(number) for number in range(len(ask_driver("index")))]
        if not names and workers * each == 1:
            return [None]  # some containers lack nvidia-smi: CUDA itself says whether there is a GPU
    else:
        source, names = f"CUDA_VISIBLE_DEVICES={visible!r} names", _named_cards(visible)
    if each > 1 and any(name.startswith("MIG") for name in names):
        raise SekdError(
            f"CUDA_VISIBLE_DEVICES={visible}: CUDA gives a process one MIG slice, so an engine cannot be split over "
            f"{each}; set engine.tensor_parallel_size=1"
        )
    if len(names) < workers * each:
        raise SekdError(
            f"workers={workers} with engine.tensor_parallel_size={each} need {workers * each} GPUs, but {source} "
            f"{len(names)}: lower one of the two, or name more in CUDA_VISIBLE_DEVICES"
        )
    return [",".join(names[slot * each : (slot + 1) * each]) for slot in range(workers)]


def _named_cards(visible: str) -> list[str]:
    """The cards that CUDA_VISIBLE_DEVICES names. As in CUDA, an empty or negative name ends the list."""
    names = [name.strip() for name in visible.split(",")]
    names = list(takewhile(lambda name: name and not name.startswith("-"), names))
    if len(set(names)) < len(names):
        raise SekdError(f"CUDA_VISIBLE_DEVICES={visible} names a GPU twice, and CUDA then shows none: name each once")
    return names
