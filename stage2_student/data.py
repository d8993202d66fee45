"""Lightning's view of the data: the training stream, the held-out part of the store, and images to ask about."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from lightning.pytorch import LightningDataModule

from sekd.datasets import load_dataset
from sekd.store.hidden import CHUNK_ROWS
from stage2_student.batch import Batch
from stage2_student.config import StudentConfig
from stage2_student.decode import Prompts
from stage2_student.encode import Encoder
from stage2_student.order import Order, Run
from stage2_student.stored import Part, Reader
from stage2_student.stream import Source, Stream


class HeldOutBatches:
    """The held-out examples in store order, every one weighing the same."""

    def __init__(self, reader: Reader, encoder: Encoder, counts: tuple[int, ...], *, batch_size: int) -> None:
        self._reader = reader
        self.encoder = encoder
        self._batch_size = batch_size
        self._runs = [
            Run(shard, start, min(start + batch_size, count))
            for shard, count in enumerate(counts)
            for start in range(0, count, batch_size)
        ]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Batch]:
        for run in self._runs:
            paths = list(self._reader.read((run,)))
            yield self.encoder.batch(paths, images=len(paths), all_images=len(paths), world=1)


class StudentData(LightningDataModule):
    """What one run reads.

    Args:
        parts: what is trained on; first the paths, of which some are held out, then what is rehearsed, if anything.
    """

    def __init__(self, config: StudentConfig, *, parts: Sequence[Part], encoder: Encoder) -> None:
        super().__init__()
        self._config = config
        self._parts = tuple(parts)
        self._held_out = replace(parts[0], held_out=True)
        self.encoder = encoder
        self._make_reader = partial(Reader, open_shards=config.stream.open_shards)

    def train_dataloader(self) -> Stream:
        return self.stream_of(*((self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)))

    def stream_of(self, rank: int, world: int) -> Stream:
        """The training batches as one rank of ``world`` sees them."""
        config = self._config
        source = Source(
            make_reader=partial(self._make_reader, *self._parts),
            encoder=self.encoder,
            group_by_length=config.stream.group_by_length,
            world=world,
        )
        return Stream(
            source,
            self.order(rank, world),
            epochs=config.optim.epochs,
            workers=config.stream.workers,
            ahead=config.stream.ahead,
        )

    def val_dataloader(self) -> list[HeldOutBatches | Prompts]:
        """Held-out examples of the store, then prompts; each only where there are any."""
        config = self._config.validation
        counts = self._held_out.counts()
        loaders: list[HeldOutBatches | Prompts] = []
        if sum(counts):
            reader = self._make_reader(self._held_out)
            loaders.append(HeldOutBatches(reader, self.encoder, counts, batch_size=config.batch_size))
        if config.images:
            dataset = load_dataset(self._config.data, config.split)
            loaders.append(Prompts(dataset, self.encoder, images=config.images, batch_size=config.batch_size))
        return loaders

    def batches(self, world: int) -> int:
        """Steps of every rank over the whole run."""
        return self.order(0, world).steps_per_epoch * self._config.optim.epochs

    def optimiser_steps(self, world: int) -> int:
        """How often the weights change over the whole run."""
        steps = -(-self.batches(world) // self._config.optim.accumulate)
        return min(steps, self._config.trainer.max_steps or steps)

    def order(self, rank: int, world: int) -> Order:
        """The training examples' order, as one rank sees it."""
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
