"""Processes that make items: the line of items is the same for any number of them, and no fault makes it wait."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from sekd.errors import SekdError
from sekd.store import DamagedStoreError
from stage2_student import processes
from stage2_student.processes import in_processes

Fault = Callable[[], Any]
DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.uint16,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)


def numbers(number: int, count: int, *, items: int = 10) -> Iterator[int]:
    yield from range(number, items, count)


def parent_has_torch(number: int, count: int) -> Iterator[bool]:
    yield "libtorch_cpu" in Path(f"/proc/{os.getppid()}/maps").read_text()


def then(fault: Fault, number: int, count: int) -> Iterator[Any]:
    """Two good items from every process; after them, the second one's fault."""
    yield number
    yield number + count
    yield fault() if number == 1 else number + 2 * count


def damaged() -> None:
    raise DamagedStoreError(Path("shard-0/targets.parquet"), "its checksum does not match")


def out_of_memory() -> None:
    raise MemoryError("no room for an image")


def two_arguments() -> None:
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "two arguments would not do")


def stop_iteration() -> None:
    raise StopIteration


def not_picklable() -> threading.Lock:
    return threading.Lock()


def sparse() -> torch.Tensor:
    return torch.eye(2).to_sparse()


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves() -> None:
    os._exit(3)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleeps() -> None:
    time.sleep(3600)


def tensors(number: int, count: int) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(number)
    for shape in ((), (0, 3), (3,), (2, 5), (300, 300)):
        values = torch.randn(shape, generator=generator) * 8
        kinds = {str(dtype): values.to(dtype, copy=True) for dtype in DTYPES}
        strided = values.expand(2, *values.shape).movedim(0, -1)
        single = torch.arange(6).view(2, 3).T[:1, 0]  # one value, three apart from the next
        yield {
            **kinds,
            "strided": strided,
            "single": single,
            "trained": values.clone().requires_grad_(),
            "array": values.numpy(),
        }


def line(part: Callable[[int, int], Iterator[Any]], *, count: int = 3, start: str = "fork") -> Iterator[Any]:
    return in_processes(part, processes=count, ahead=2, start=start)


@pytest.mark.parametrize(("count", "start"), [(1, "fork"), (3, "fork"), (2, "forkserver")])
def test_items_come_in_order_and_all_of_them(count: int, start: str) -> None:
    assert list(line(numbers, count=count, start=start)) == list(range(10))


def test_a_forkserver_has_imported_what_every_process_needs() -> None:
    assert list(line(parent_has_torch, count=1, start="forkserver")) == [True]


def test_more_processes_than_items_end_too() -> None:
    assert list(line(partial(numbers, items=2), count=4)) == [0, 1]


def test_a_tensor_arrives_as_it_was_sent_whatever_its_dtype_shape_and_size() -> None:
    for sent, got in zip(tensors(0, 1), line(tensors, count=1), strict=True):
        assert np.array_equal(sent.pop("array"), got.pop("array"))
        assert sent.keys() == got.keys()
        for name, values in sent.items():
            assert (got[name].dtype, got[name].shape) == (values.dtype, values.shape)
            bits = [one.detach().contiguous().view(-1).view(torch.uint8) for one in (got[name], values)]
            assert torch.equal(*bits)
            got[name].zero_()  # its memory may be written to


@pytest.mark.parametrize(
    ("fault", "kind", "said", "start"),
    [
        (damaged, DamagedStoreError, "^shard-0/targets.parquet: its checksum does not match; ", "fork"),
        (out_of_memory, RuntimeError, "MemoryError: no room for an image", "fork"),
        (two_arguments, RuntimeError, "two arguments would not do", "fork"),
        (stop_iteration, RuntimeError, "StopIteration", "fork"),
        (not_picklable, RuntimeError, "cannot pickle '_thread.lock'", "fork"),
        (sparse, RuntimeError, "unsupported memory format", "fork"),
        (killed, SekdError, "reader-1, .* was killed by SIGKILL", "fork"),
        (killed, SekdError, "reader-1, .* was killed by SIGKILL", "forkserver"),
        (leaves, SekdError, "reader-1, .* ended with exit status 3", "fork"),
    ],
)
def test_what_ends_a_process_ends_the_line_after_the_items_before_it(
    fault: Fault, kind: type[Exception], said: str, start: str
) -> None:
    items = line(partial(then, fault), start=start)
    assert [next(items) for _ in range(7)] == [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(kind, match=said):
        next(items)


@pytest.mark.parametrize("fault", [stopped, sleeps])
def test_a_process_that_says_nothing_is_not_waited_for(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SILENCE", 0.5)
    with pytest.raises(SekdError, match=r"reader-1 \(process \d+\) has read nothing for 0.5 seconds"):
        list(line(partial(then, fault)))


def test_no_process_is_waited_for_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits for a dead disk does not end when it is killed."""
    join, bounds = BaseProcess.join, []

    def noted(self: BaseProcess, timeout: float | None = None) -> None:
        bounds.append(timeout)
        join(self, timeout)

    monkeypatch.setattr(BaseProcess, "join", noted)
    assert list(line(numbers)) == list(range(10))
    assert len(bounds) == 3
    assert None not in bounds


def test_no_process_outlives_its_line() -> None:
    before = set(psutil.Process().children())
    unread = line(partial(then, sleeps))
    next(unread)
    assert len(set(psutil.Process().children()) - before) == 3
    unread.close()
    assert set(psutil.Process().children()) == before


def test_no_process_outlives_a_reader_that_was_killed(tmp_path: Path) -> None:
    """Each is in the middle of an item, waits to be asked, or is asked already."""
    said = tmp_path / "pids"
    code = f"""
import os, pathlib, signal
from test_processes import line, numbers, psutil
next(line(numbers))
children = [str(child.pid) for child in psutil.Process().children()]
pathlib.Path({str(said)!r}).write_text(" ".join(children))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    left = [psutil.Process(int(pid)) for pid in said.read_text().split() if psutil.pid_exists(int(pid))]
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
