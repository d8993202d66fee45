"""Lightning's view of the data: the training stream, the held-out part of the store, and images to ask about."""

from collections.abc import Callable, Iterator, Sequence
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
from stage2_student.stored import Reader, SplitView
from stage2_student.stream import Source, Stream, read


class HeldOutBatches:
    """One rank's share of the held-out examples, in store order.

    All ranks have equally many batches, because some strategies need all of them in every forward pass. A rank that
    has fewer gets the first batch again, with ``images`` 0: it counts for nothing.
    """

    def __init__(
        self,
        make_reader: Callable[[], Reader],
        encoder: Encoder,
        counts: tuple[int, ...],
        *,
        batch_size: int,
        rank: int,
        world: int,
        workers: int,
        ahead: int,
    ) -> None:
        self._make_reader = make_reader
        self.encoder = encoder
        runs = [
            Run(shard, start, min(start + batch_size, count))
            for shard, count in enumerate(counts)
            for start in range(0, count, batch_size)
        ]
        own = [(run, len(run)) for run in runs[rank::world]]
        self._runs = own + [(runs[0], 0)] * (-(-len(runs) // world) - len(own))
        self._workers = min(workers, len(self._runs))
        self._ahead = ahead

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Batch]:
        return read(self.part, workers=self._workers, ahead=self._ahead)

    def part(self, number: int, processes: int) -> Iterator[Batch]:
        """Every ``processes``-th batch, from ``number`` on."""
        reader = self._make_reader()
        for run, images in self._runs[number::processes]:
            paths = list(reader.read((run,)))
            yield self.encoder.batch(paths, images=images, all_images=len(paths), world=1)


class StudentData(LightningDataModule):
    """What one run reads.

    Args:
        parts: what is trained on; first the paths, of which some are held out, then what is rehearsed, if anything.
    """

    def __init__(self, config: StudentConfig, *, parts: Sequence[SplitView], encoder: Encoder) -> None:
        super().__init__()
        self._config = config
        self._parts = tuple(parts)
        self._held_out = replace(parts[0], held_out=True)
        self.encoder = encoder
        self._make_reader = partial(Reader, open_shards=config.stream.open_shards)

    @property
    def _place(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Stream:
        return self.stream_of(*self._place)

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
        loaders: list[HeldOutBatches | Prompts] = []
        if sum(self._held_out.counts()):
            loaders.append(self.held_out_of(*self._place))
        if config.images:
            dataset = load_dataset(self._config.data, config.split)
            loaders.append(Prompts(dataset, self.encoder, images=config.images, batch_size=config.batch_size))
        return loaders

    def held_out_of(self, rank: int, world: int) -> HeldOutBatches:
        """The held-out examples that one rank of ``world`` sees."""
        return HeldOutBatches(
            partial(self._make_reader, self._held_out),
            self.encoder,
            self._held_out.counts(),
            batch_size=self._config.validation.batch_size,
            rank=rank,
            world=world,
            workers=self._config.stream.workers,
            ahead=self._config.stream.ahead,
        )

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
