"""The stream of batches: every epoch behind the last as one line of steps, whose position a checkpoint can hold.

Worker processes read and encode whole blocks; the training process takes the blocks in their order and hands out
their batches. So the batches are the same for any number of workers, and to resume at step n is to start there.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sekd.errors import SekdError
from stage2_student.batch import Batch
from stage2_student.encode import Encoder
from stage2_student.order import Block, Order, batches
from stage2_student.stored import Reader

# A worker's blocks, or the one error that ends them: raised in the training process, so that it stays one line.
Item = list[Batch] | SekdError

# Shared memory costs the receiver a connection a tensor, more than to copy one of up to this many bytes.
SENT_INLINE = 1 << 16


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


class Blocks(IterableDataset):
    """The encoded blocks of ``epochs`` epochs from block ``first`` on; of n workers each makes every n-th."""

    def __init__(self, source: Source, order: Order, *, epochs: int, first: int) -> None:
        self._source = source
        self._order = order
        self._epochs = epochs
        self._first = first

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        workers, own = (worker.num_workers, worker.id) if worker else (1, 0)
        if worker:
            gc.freeze()  # what was inherited stays: looking through it over and over would copy its pages
            ForkingPickler.register(Tensor, _reduced)
        try:
            reader = self._source.make_reader()
            for number, block in enumerate(self._blocks()):
                if number % workers == own:
                    yield self._source.batches(reader, block)
        except SekdError as error:
            yield error

    def _blocks(self) -> Iterator[Block]:
        epoch, skip = divmod(self._first, self._order.blocks_per_epoch)
        for later in range(epoch, self._epochs):
            yield from self._order.blocks(later, first=skip if later == epoch else 0)


def _reduced(tensor: Tensor) -> Any:
    """How a worker sends a tensor: as bytes where it is small, else in shared memory."""
    if tensor.nbytes <= SENT_INLINE:
        return torch.from_numpy, (tensor.numpy(),)
    return reduce_tensor(tensor)


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
        items = iter(self._loader(first=epoch * self._order.blocks_per_epoch + block))
        while self.position < len(self):
            begin = time.perf_counter()
            item = next(items)
            self.waited += time.perf_counter() - begin
            if isinstance(item, SekdError):
                raise item
            for batch in item[offset:]:
                self.position += 1
                yield batch
            offset = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def _loader(self, *, first: int) -> DataLoader:
        blocks = Blocks(self._source, self._order, epochs=self._epochs, first=first)
        if not self._workers:
            return DataLoader(blocks, batch_size=None)
        # A fork beside the threads of a process group may never return. Alone it starts a worker at once.
        start = "forkserver" if torch.distributed.is_initialized() else "fork"
        return DataLoader(
            blocks,
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=self._ahead,
            multiprocessing_context=start,
        )
