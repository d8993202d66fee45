"""A run's data: the training stream, held-out examples of the store, and validation images.

Worker processes read and encode whole blocks; the training process takes the blocks in order and yields their batches.
So the batches are the same for any number of workers, and a run can resume at any step.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from lightning.pytorch import LightningDataModule

from sekd.datasets import load_dataset
from sekd.store.hidden import CHUNK_ROWS
from stage2_student.batch import Batch
from stage2_student.config import StreamConfig, StudentConfig
from stage2_student.decode import Prompts
from stage2_student.encode import Encoder
from stage2_student.order import Block, Order, Run, batches
from stage2_student.processes import read
from stage2_student.stored import Reader, SplitView


class Stream:
    """Batches of a whole run, in order. Lightning saves and restores its position with every checkpoint.

    Attributes:
        position: steps handed out so far.
        waited: seconds spent waiting for a block.
    """

    def __init__(
        self, make_reader: Callable[[], Reader], encoder: Encoder, order: Order, *, epochs: int, settings: StreamConfig
    ) -> None:
        self._make_reader = make_reader
        self._encoder = encoder
        self._order = order
        self._epochs = epochs
        self._settings = settings
        self.position = 0
        self.waited = 0.0

    def __len__(self) -> int:
        return self._order.steps_per_epoch * self._epochs

    @property
    def epoch(self) -> float:
        return self.position / self._order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch, step = divmod(self.position, self._order.steps_per_epoch)
        block, offset = divmod(step, self._order.steps_per_block)
        part = partial(self._part, epoch, block)
        blocks = read(part, workers=self._settings.workers, ahead=self._settings.ahead)
        while self.position < len(self):
            begin = time.perf_counter()
            block_batches = next(blocks, None)
            self.waited += time.perf_counter() - begin
            if block_batches is None:
                raise RuntimeError(f"the blocks ended after {self.position} of {len(self)} batches")
            for batch in block_batches[offset:]:
                self.position += 1
                yield batch
            offset = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def _part(self, epoch: int, block: int, number: int, processes: int) -> Iterator[list[Batch]]:
        """Every ``processes``-th of the encoded blocks after a given one, from ``number`` on."""
        reader = self._make_reader()
        later = range(epoch, self._epochs)
        blocks = (one for turn in later for one in self._order.blocks(turn, first=block if turn == epoch else 0))
        for one in islice(blocks, number, None, processes):
            yield self._encoded(reader, one)

    def _encoded(self, reader: Reader, block: Block) -> list[Batch]:
        paths = list(reader.read(block.runs))
        lengths = [self._encoder.length(path) for path in paths] if self._settings.group_by_length else None
        return [
            self._encoder.batch(
                [paths[place] for place in places], images=own, all_images=total, world=self._order.world
            )
            for places, (own, total) in zip(batches(block, lengths), block.batches, strict=True)
        ]


class HeldOutBatches:
    """One rank's share of the held-out examples, in store order.

    All ranks have equally many batches, because some strategies need all of them in every forward pass. A rank with
    fewer gets the first batch again, with ``images`` 0: its weight is zero.
    """

    def __init__(
        self, part: SplitView, encoder: Encoder, *, batch_size: int, rank: int, world: int, settings: StreamConfig
    ) -> None:
        self._make_reader = partial(Reader, part, open_shards=settings.open_shards)
        self._encoder = encoder
        self._settings = settings
        runs = [
            Run(shard, start, min(start + batch_size, count))
            for shard, count in enumerate(part.counts())
            for start in range(0, count, batch_size)
        ]
        own = [(run, len(run)) for run in runs[rank::world]]
        self._runs = own + [(runs[0], 0)] * (-(-len(runs) // world) - len(own))

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Batch]:
        return read(self._part, workers=min(self._settings.workers, len(self)), ahead=self._settings.ahead)

    def _part(self, number: int, processes: int) -> Iterator[Batch]:
        reader = self._make_reader()
        for run, images in self._runs[number::processes]:
            paths = list(reader.read((run,)))
            yield self._encoder.batch(paths, images=images, all_images=len(paths), world=1)


class StudentData(LightningDataModule):
    """Lightning's data module of one run.

    Args:
        parts: the training data: first the paths, of which some are held out, then the rehearsed ones, if any.
    """

    def __init__(self, config: StudentConfig, *, parts: Sequence[SplitView], encoder: Encoder) -> None:
        super().__init__()
        self._config = config
        self._parts = tuple(parts)
        self._held_out = replace(parts[0], held_out=True)
        self.encoder = encoder

    @property
    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Stream:
        return self.stream_of(*self._place)

    def stream_of(self, rank: int, world: int) -> Stream:
        settings = self._config.stream
        make_reader = partial(Reader, *self._parts, open_shards=settings.open_shards)
        order = self.order(rank, world)
        return Stream(make_reader, self.encoder, order, epochs=self._config.optim.epochs, settings=settings)

    def val_dataloader(self) -> list[HeldOutBatches | Prompts]:
        """Held-out examples of the store, then prompts with known answers; each only if there are any."""
        config = self._config.validation
        loaders: list[HeldOutBatches | Prompts] = []
        if sum(self._held_out.counts()):
            loaders.append(self.held_out_of(*self._place))
        if config.images and not self._config.data.by_descent:
            dataset = load_dataset(self._config.data, config.split)
            loaders.append(Prompts(dataset, self.encoder, images=config.images, batch_size=config.batch_size))
        return loaders

    def held_out_of(self, rank: int, world: int) -> HeldOutBatches:
        size, settings = self._config.validation.batch_size, self._config.stream
        return HeldOutBatches(self._held_out, self.encoder, batch_size=size, rank=rank, world=world, settings=settings)

    def batches(self, world: int) -> int:
        """Steps of every rank over the whole run."""
        return self.order(0, world).steps_per_epoch * self._config.optim.epochs

    def optimiser_steps(self, world: int) -> int:
        steps = -(-self.batches(world) // self._config.optim.accumulate)
        return min(steps, self._config.trainer.max_steps or steps)

    def order(self, rank: int, world: int) -> Order:
        store = self._parts[0].store
        entries = [store.entry(shard) for shard in range(store.plan.n_shards)]
        stored = sum(entry.examples[1] - entry.examples[0] - len(entry.skipped) for entry in entries)
        return Order(
            counts=tuple(count for part in self._parts for count in part.counts()),
            chunk=max(CHUNK_ROWS * stored // sum(entry.rows for entry in entries), 1),
            open_shards=self._config.stream.open_shards,
            batch_size=self._config.optim.batch_size,
            buffer=self._config.stream.buffer,
            seed=self._config.seed,
            rank=rank,
            world=world,
        )
