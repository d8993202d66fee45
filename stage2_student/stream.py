"""The stream of batches: every epoch behind the last as one line of steps, whose position a checkpoint can hold.

Worker processes read and encode whole blocks; the training process takes the blocks in their order and hands out
their batches. So the batches are the same for any number of workers, and to resume at step n is to start there.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from stage2_student.batch import Batch
from stage2_student.encode import Encoder
from stage2_student.order import Block, Order, batches
from stage2_student.processes import Part, in_processes
from stage2_student.stored import Reader

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Reads and encodes a block. ``make_reader`` is called once in each process that reads."""

    make_reader: Callable[[], Reader]
    encoder: Encoder
    group_by_length: bool
    world: int

    def batches(self, reader: Reader, block: Block) -> list[Batch]:
        paths = list(reader.read(block.runs))
        lengths = [self.encoder.length(path) for path in paths] if self.group_by_length else [0.0] * len(paths)
        members = batches(block, lengths, group_by_length=self.group_by_length)
        return [
            self.encoder.batch([paths[place] for place in batch], images=own, all_images=total, world=self.world)
            for batch, (own, total) in zip(members, block.batches, strict=True)
        ]


@dataclass(frozen=True)
class Blocks:
    """The encoded blocks of ``epochs`` epochs from block ``first`` on."""

    source: Source
    order: Order
    epochs: int
    first: int

    def part(self, number: int, processes: int) -> Iterator[list[Batch]]:
        """Every ``processes``-th block, from ``number`` on."""
        reader = self.source.make_reader()
        for place, block in enumerate(self._blocks()):
            if place % processes == number:
                yield self.source.batches(reader, block)

    def _blocks(self) -> Iterator[Block]:
        epoch, skip = divmod(self.first, self.order.blocks_per_epoch)
        for later in range(epoch, self.epochs):
            yield from self.order.blocks(later, first=skip if later == epoch else 0)


class Stream:
    """Batches of a whole run, in order. Lightning saves and restores its position with every checkpoint.

    Attributes:
        position: steps handed out so far.
        waited: seconds spent waiting for a block.
    """

    def __init__(self, source: Source, order: Order, *, epochs: int, workers: int = 0, ahead: int = 2) -> None:
        self._source = source
        self._order = order
        self._epochs = epochs
        self._workers = workers
        self._ahead = ahead
        self.position = 0
        self.waited = 0.0

    def __len__(self) -> int:
        return self._order.steps_per_epoch * self._epochs

    @property
    def epoch(self) -> float:
        """How many times the data was seen by now."""
        return self.position / self._order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch, step = divmod(self.position, self._order.steps_per_epoch)
        block, offset = divmod(step, self._order.steps_per_block)
        items = self._blocks(first=epoch * self._order.blocks_per_epoch + block)
        while self.position < len(self):
            begin = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - begin
            if item is None:
                raise RuntimeError(f"the blocks ended after {self.position} of {len(self)} batches")
            for batch in item[offset:]:
                self.position += 1
                yield batch
            offset = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def _blocks(self, *, first: int) -> Iterator[list[Batch]]:
        blocks = Blocks(self._source, self._order, self._epochs, first)
        return read(blocks.part, workers=self._workers, ahead=self._ahead)


def read(part: Part[T], *, workers: int, ahead: int) -> Iterator[T]:
    """The items in order, made by ``workers`` processes; 0 makes them in this one."""
    if not workers:
        return part(0, 1)
    # A fork beside the threads of a process group may never return. Alone it starts a worker at once.
    start = "forkserver" if torch.distributed.is_initialized() else "fork"
    return in_processes(part, processes=workers, ahead=ahead, start=start)
