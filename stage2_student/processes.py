"""One sequence of items made by several processes, which ends with its own message whatever happens to one of them.

Torch's DataLoader does not promise that. Its workers share one pipe, so one that is killed while it writes leaves half
a message, for whose rest the reader waits; and they pickle in a thread that prints its errors and drops the item. Here
an item is pickled by the code that made it, into a file in memory, and is sent as that file's descriptor once it is
complete. And every process has a socket of its own, which closes with the process.
"""

import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
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
WANTED = b"w"  # asks a process for one more item
SILENCE = 600.0  # seconds without an item, after which a process counts as stuck


def read(part: Part[T], *, workers: int, ahead: int) -> Iterator[T]:
    """The items in order, made by ``workers`` processes; 0 makes them in this one."""
    if not workers:
        return part(0, 1)
    # A fork beside the threads of a process group may never return. Alone it starts a worker at once.
    start = "forkserver" if torch.distributed.is_initialized() else "fork"
    return in_processes(part, processes=workers, ahead=ahead, start=start)


def in_processes(part: Part[T], *, processes: int, ahead: int, start: str) -> Iterator[T]:
    """The items of all processes in turn; each makes up to ``ahead`` items before they are asked for.

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
            if kind == END:  # the next item of all would be this one's
                return
            if kind == FAILURE:
                raise content
            member.ask(1)
            yield content
    finally:
        for member in team:
            member.stop()


class _Member:
    """A process as the one that reads from it sees it."""

    def __init__(self, part: Part, number: int, processes: int, *, start: str, others: "list[_Member]") -> None:
        context: Any = multiprocessing.get_context(start)
        self._line, its_end = socket.socketpair()
        self._line.settimeout(SILENCE)
        # A fork inherits the reader's ends, and none of them closes before every copy is closed.
        inherited = [self._line, *(member._line for member in others)] if start == "fork" else []
        self._process = context.Process(
            target=_work, args=(its_end, inherited, part, number, processes), name=f"reader-{number}", daemon=True
        )
        self._process.start()
        its_end.close()

    def ask(self, items: int) -> None:
        with suppress(OSError):  # it is gone, which ``take`` reports
            self._line.sendall(WANTED * items)

    def take(self) -> tuple[bytes, Any]:
        """The next message and what it carries."""
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
            self._process.join(timeout=5)  # its socket closes a moment before its exit status is known
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
        """It only reads, so nothing is lost. One that waits for a dead disk cannot even be killed."""
        self._line.close()
        self._process.kill()
        self._process.join(timeout=5)


# --- in the process ---


def _work(line: socket.socket, inherited: list[socket.socket], part: Part, number: int, processes: int) -> None:
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the reader's end is enough
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's handler, where it was inherited, ends nothing
    torch.set_num_threads(1)
    gc.freeze()  # what was inherited stays: looking through it over and over would copy its pages
    messages = _messages(part, number, processes)
    with suppress(ConnectionError):  # nobody reads any more
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
    """A file in memory that holds the item; on systems without such files, one on disk that has no name."""
    if hasattr(os, "memfd_create"):
        file: Any = os.fdopen(os.memfd_create("item"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115  it is closed once it is sent
    _Pickler(file, protocol=5).dump(item)
    file.flush()
    return file


class _Pickler(pickle.Pickler):
    """Writes a tensor of any dtype as its bytes; torch's own way goes through ``torch.save``."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor:
            return NotImplemented
        whole = value.detach().contiguous()
        flat = whole.as_strided((whole.numel(),), (1,))  # a single value may have any stride and count as contiguous
        data: Any = flat.view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(data), value.dtype, tuple(value.shape))


def _tensor(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)
