"""In which order the stored examples are seen, and by whom: arithmetic on (seed, epoch) alone, no reading.

An epoch visits every example once. Shards are shuffled; the chunks of a few shards at a time are shuffled together;
the line of examples that results is cut into *blocks*, which are dealt to the ranks in turn, and a rank's block is
shuffled once more, example by example, and cut into batches. So a block is read by one worker of one rank and by
nobody else, and neither the number of workers nor where a run was interrupted changes a batch.

The last, shorter block is shared out evenly, so that all ranks make the same number of steps and no example is lost
or seen twice. A batch weighs its examples by ``global_examples``, the number that all ranks see in that step, so the
averaged gradient is the mean over those examples even where ranks hold unequal numbers. A rank that has none in a step
of that block (fewer examples than ranks) still needs something to run: it gets one example that counts for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Which draw a random stream is for: streams of one (seed, epoch) must not repeat each other.
SHARDS, CHUNKS, BLOCK = 0, 1, 2


@dataclass(frozen=True)
class Run:
    """Consecutive examples [start, stop) of one shard."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """What one worker of one rank reads at once, and how it becomes batches.

    Attributes:
        runs: where the examples lie.
        batches: for every step of the block, the rank's number of examples and that of all ranks together.
        seed: of the block's own shuffle.
    """

    runs: tuple[Run, ...]
    batches: tuple[tuple[int, int], ...]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The order of every epoch, as one rank sees it.

    Attributes:
        counts: examples of every shard.
        chunk: examples that stay together until the block's shuffle, because they lie together on disk.
        open_shards: shards whose chunks are shuffled together.
        batch_size: examples of one rank in one step.
        buffer: examples of one rank in one block, rounded up to whole batches.
        rank, world: this process among all.
    """

    counts: tuple[int, ...]
    chunk: int
    open_shards: int
    batch_size: int
    buffer: int
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def steps_per_block(self) -> int:
        return -(-self.buffer // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return -(-sum(self.counts) // (self.batch_size * self.world))

    @property
    def blocks_per_epoch(self) -> int:
        return -(-self.steps_per_epoch // self.steps_per_block)

    def blocks(self, epoch: int, *, first: int = 0) -> Iterator[Block]:
        """The rank's blocks of one epoch in order, from number ``first`` on."""
        line = RunLine(self._chunks(epoch))
        for number in range(self.blocks_per_epoch):
            shares = self._shares(number)
            mine = sum(shares[: self.rank])
            runs = line.take(sum(shares))
            if number >= first:
                yield Block(
                    runs=_cut(runs, mine, mine + shares[self.rank]) or _cut(runs, 0, 1),
                    batches=tuple(self._batches(number, shares)),
                    seed=(self.seed, epoch, BLOCK, number, self.rank),
                )

    def _chunks(self, epoch: int) -> Iterator[Run]:
        shards = np.random.default_rng((self.seed, epoch, SHARDS)).permutation(len(self.counts))
        for group in range(0, len(shards), self.open_shards):
            chunks = [
                Run(int(shard), start, min(start + self.chunk, self.counts[shard]))
                for shard in shards[group : group + self.open_shards]
                for start in range(0, self.counts[shard], self.chunk)
            ]
            for place in np.random.default_rng((self.seed, epoch, CHUNKS, group)).permutation(len(chunks)):
                yield chunks[place]

    def _shares(self, block: int) -> list[int]:
        """How many examples of a block each rank gets."""
        whole = self.steps_per_block * self.batch_size * self.world
        left = min(sum(self.counts) - block * whole, whole)
        return split(left, self.world)

    def _batches(self, block: int, shares: Sequence[int]) -> Iterator[tuple[int, int]]:
        steps = min(self.steps_per_epoch - block * self.steps_per_block, self.steps_per_block)
        sizes = [split(share, steps) for share in shares]
        for step in range(steps):
            yield sizes[self.rank][step], sum(size[step] for size in sizes)


class RunLine:
    """A line of runs, from which examples are taken at the front."""

    def __init__(self, runs: Iterator[Run]) -> None:
        self._runs = runs
        self._rest: Run | None = None

    def take(self, examples: int) -> tuple[Run, ...]:
        taken: list[Run] = []
        while examples:
            run = self._rest or next(self._runs)
            middle = min(run.start + examples, run.stop)
            taken.append(Run(run.shard, run.start, middle))
            self._rest = Run(run.shard, middle, run.stop) if middle < run.stop else None
            examples -= middle - run.start
        return tuple(taken)


def split(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole numbers that differ by at most one, larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _cut(runs: Sequence[Run], start: int, stop: int) -> tuple[Run, ...]:
    """Examples [start, stop) of a line of runs."""
    line = RunLine(iter(runs))
    line.take(start)
    return line.take(stop - start)


def batches(block: Block, lengths: Sequence[float], *, group_by_length: bool) -> list[list[int]]:
    """For every step of the block, which of its examples (as positions in it) make up the batch.

    Examples of similar length come together if asked for; which step gets which length is left to chance. A step in
    which the rank has no example of its own gets the first one, and ``block.batches`` says that it counts for nothing.
    """
    rng = np.random.default_rng(block.seed)
    line = rng.permutation(sum(size for size, _ in block.batches))
    if group_by_length:
        line = line[np.argsort(np.asarray(lengths)[line], kind="stable")]
    members: dict[int, list[int]] = {}
    taken = 0
    for step in rng.permutation(len(block.batches)):
        size = block.batches[step][0]
        members[int(step)] = [int(place) for place in line[taken : taken + size]] or [0]
        taken += size
    return [members[step] for step in range(len(block.batches))]
