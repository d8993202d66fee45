"""One sequence of items made by several processes; any failure of a process ends it with a clear message.

Torch's DataLoader does not guarantee that: its workers share one pipe, so one that is killed while writing leaves half
a message, and the reader waits for the rest; they also pickle in a thread that prints errors and drops the item. Here
the worker pickles an item into a file in memory and sends the file's descriptor once it is complete. Every process has
its own socket, which closes with the process.
"""

import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any, TypeVar

import torch
from torch import Tensor

from sekd.errors import SekdError

T = TypeVar("T")
Part = Callable[[int, int], Iterator[T]]  # (number, processes) -> every ``processes``-th item from ``number`` on

ITEM, FAILURE, END = b"item", b"fail", b"end."
WANTED = b"w"  # requests one more item
PRELOADED = ["stage2_student.data"]  # of a forkserver: else every process spends seconds on the same imports
SILENCE = 600.0  # seconds without an item after which a process counts as hanging


def read(part: Part[T], *, workers: int, ahead: int) -> Iterator[T]:
    """The items in order, made by ``workers`` processes; 0 makes them in this one."""
    if not workers:
        return part(0, 1)
    # A fork beside the threads of a process group may hang. Without them it is the fastest start.
    start = "forkserver" if torch.distributed.is_initialized() else "fork"
    return in_processes(part, processes=workers, ahead=ahead, start=start)


def in_processes(part: Part[T], *, processes: int, ahead: int, start: str) -> Iterator[T]:
    """The items of all processes in turn; each makes up to ``ahead`` items in advance.

    Args:
        start: how a process starts: "fork" or "forkserver".

    Raises:
        SekdError: a process raised one, died, or sent nothing for ``SILENCE`` seconds.
        RuntimeError: a process raised anything else; the message is its traceback.
    """
    team: list[_Member] = []
    try:
        for number in range(processes):
            team.append(_Member(part, number, processes, start=start, others=team))
            team[-1].ask(ahead)
        for member in itertools.cycle(team):
            kind, content = member.take()
            if kind == END:  # the next item would come from this process
                return
            if kind == FAILURE:
                raise content
            member.ask(1)
            yield content
    finally:
        for member in team:
            member.stop()


class _Member:
    """The reader's side of a process."""

    def __init__(self, part: Part, number: int, processes: int, *, start: str, others: "list[_Member]") -> None:
        context: Any = multiprocessing.get_context(start)
        context.set_forkserver_preload(PRELOADED)
        self._line, its_end = socket.socketpair()
        self._line.settimeout(SILENCE)
        # A fork inherits the reader's sockets, and a socket closes only with its last copy.
        inherited = [self._line, *(member._line for member in others)] if start == "fork" else []
        self._process = context.Process(
            target=_work, args=(its_end, inherited, part, number, processes), name=f"reader-{number}", daemon=True
        )
        self._process.start()
        its_end.close()

    def ask(self, items: int) -> None:
        with suppress(OSError):  # it has ended, which ``take`` reports
            self._line.sendall(WANTED * items)

    def take(self) -> tuple[bytes, Any]:
        """The next message and its item."""
        try:
            kind, descriptors, _, _ = socket.recv_fds(self._line, len(ITEM), 1)
        except TimeoutError:
            raise SekdError(
                f"{self._process.name} (process {self._process.pid}) has read nothing for {SILENCE:g} seconds: "
                "does the disk of the store and the images answer? If it does, set a smaller stream.buffer"
            ) from None
        except ConnectionResetError:
            kind = b""
        if not kind:
            self._process.join(timeout=5)  # its socket closes shortly before its exit status is known
            code = self._process.exitcode
            killed = code is not None and code < 0
            how = f"was killed by {signal.Signals(-code).name}" if killed else f"ended with exit status {code}"
            raise SekdError(
                f"{self._process.name}, a process that reads the store, {how}; if memory ran out, set a smaller "
                "stream.workers or stream.buffer. The same command goes on from the last checkpoint"
            )
        with open(descriptors[0], "rb") as file:  # noqa: PTH123  a descriptor has no path
            file.seek(0)
            return kind, pickle.load(file)

    def stop(self) -> None:
        """It only reads, so nothing is lost. A process that waits for a broken disk cannot be killed."""
        self._line.close()
        self._process.kill()
        self._process.join(timeout=5)


# --- in the process ---


def _work(line: socket.socket, inherited: list[socket.socket], part: Part, number: int, processes: int) -> None:
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends SIGINT to all; the closed socket ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an inherited handler of Lightning would not end the process
    torch.set_num_threads(1)
    gc.freeze()  # keep the collector from inherited objects, whose pages it would copy
    messages = _messages(part, number, processes)
    with suppress(ConnectionError):  # the reader has closed
        while line.recv(1):
            kind, file = next(messages)
            with file:
                socket.send_fds(line, [kind], [file.fileno()])
            if kind != ITEM:
                return


def _messages(part: Part, number: int, processes: int) -> Iterator[tuple[bytes, IO[bytes]]]:
    try:
        for item in part(number, processes):
            yield ITEM, _pickled(item)
        yield END, _pickled(None)
    except SekdError as error:
        yield FAILURE, _pickled(error)
    except Exception:
        yield FAILURE, _pickled(RuntimeError(f"a process that reads the store failed:\n{traceback.format_exc()}"))


def _pickled(item: Any) -> IO[bytes]:
    """A file in memory with the pickled item."""
    file = os.fdopen(os.memfd_create("item"), "w+b")
    _Pickler(file, protocol=5).dump(item)
    file.flush()
    return file


class _Pickler(pickle.Pickler):
    """Writes a tensor of any dtype as its bytes, instead of ``torch.save``."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor:
            return NotImplemented
        whole = value.detach().contiguous()
        flat = whole.as_strided((whole.numel(),), (1,))  # a single value is contiguous with any stride
        data: Any = flat.view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(data), value.dtype, tuple(value.shape))


def _tensor(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)
