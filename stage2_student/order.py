"""The order of the stored examples and their split over ranks: computed from (seed, epoch) alone, without reading.

An epoch visits every example once. Shards are shuffled; the chunks of a few shards at a time are shuffled together; the
resulting sequence is cut into *blocks*, which go to the ranks in turn, and a rank's block is shuffled again by example
and cut into batches. So each block is read by one worker of one rank, and neither the number of workers nor an
interruption changes a batch.

The last, shorter block is split evenly, so that all ranks make the same number of steps and no example is lost or seen
twice. A batch weights its examples by the number over all ranks in that step, so the averaged gradient is the mean over
those examples even if ranks have unequal numbers. A rank without examples in a step of that block (fewer examples than
ranks) gets one example of weight 0.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# The purpose of a random stream: streams of one (seed, epoch) must differ.
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
    """The examples that one worker of one rank reads at a time, and their batches.

    Attributes:
        runs: the examples.
        batches: for every step of the block, the rank's number of examples and that of all ranks together.
        seed: of the block's own shuffle.
    """

    runs: tuple[Run, ...]
    batches: tuple[tuple[int, int], ...]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The order of every epoch for one rank.

    Attributes:
        counts: examples of every shard.
        chunk: examples that are adjacent on disk and stay together until the block's shuffle.
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

    def blocks(self, epoch: int, *, first: int = 0) -> Iterator[Block]:
        """The rank's blocks of one epoch in order, from number ``first`` on."""
        shares = [self._shares(number) for number in range(-(-self.steps_per_epoch // self.steps_per_block))]
        pieces = _cut(self._chunks(epoch), (share for block in shares for share in block))
        for number, of_ranks in enumerate(shares):
            runs = [next(pieces) for _ in of_ranks]
            if number >= first:
                filler = runs[0][0]
                yield Block(
                    runs=runs[self.rank] or (Run(filler.shard, filler.start, filler.start + 1),),
                    batches=self._batches(number, of_ranks),
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
        whole = self.steps_per_block * self.batch_size * self.world
        return split(min(sum(self.counts) - block * whole, whole), self.world)

    def _batches(self, block: int, shares: Sequence[int]) -> tuple[tuple[int, int], ...]:
        steps = min(self.steps_per_epoch - block * self.steps_per_block, self.steps_per_block)
        by_step = zip(*(split(share, steps) for share in shares), strict=True)
        return tuple((sizes[self.rank], sum(sizes)) for sizes in by_step)


def _cut(runs: Iterator[Run], sizes: Iterable[int]) -> Iterator[tuple[Run, ...]]:
    """A sequence of runs, cut into pieces of the given numbers of examples."""
    rest = Run(0, 0, 0)
    for size in sizes:
        piece: list[Run] = []
        while size:
            rest = rest if len(rest) else next(runs)
            taken = min(size, len(rest))
            piece.append(Run(rest.shard, rest.start, rest.start + taken))
            rest = Run(rest.shard, rest.start + taken, rest.stop)
            size -= taken
        yield tuple(piece)


def split(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole numbers that differ by at most one, larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def batches(block: Block, lengths: Sequence[float] | None = None) -> list[list[int]]:
    """For every step of the block, the batch's examples as positions in the block.

    Given ``lengths``, examples of similar length are grouped; the order of the groups is random. A step in which the
    rank has no example gets the first one, with weight 0 in ``block.batches``.
    """
    rng = np.random.default_rng(block.seed)
    line = rng.permutation(sum(size for size, _ in block.batches))
    if lengths is not None:
        line = line[np.argsort(np.asarray(lengths)[line], kind="stable")]
    members: list[list[int]] = [[] for _ in block.batches]
    taken = 0
    for step in rng.permutation(len(block.batches)):
        size = block.batches[step][0]
        members[step] = line[taken : taken + size].tolist() or [0]
        taken += size
    return members
