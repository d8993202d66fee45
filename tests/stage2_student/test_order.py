"""The order of examples: a partition of every epoch over ranks and steps, from (seed, epoch) alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_student.order import Block, Order, batches, split

orders = st.builds(
    Order,
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple),
    chunk=st.integers(1, 9),
    open_shards=st.integers(1, 4),
    batch_size=st.integers(1, 7),
    buffer=st.integers(1, 30),
    seed=st.integers(0, 5),
    rank=st.just(0),
    world=st.integers(1, 4),
)


def examples(block: Block) -> list[tuple[int, int]]:
    return [(run.shard, place) for run in block.runs for place in range(run.start, run.stop)]


def steps(order: Order, epoch: int, first: int = 0) -> list[list[tuple[int, int]]]:
    """The examples of every step that count, as (shard, place)."""
    seen = []
    for block in order.blocks(epoch, first=first):
        members = batches(block)
        for batch, (size, _) in zip(members, block.batches, strict=True):
            assert len(batch) == max(size, 1)
            seen.append([examples(block)[place] for place in batch[:size]])
    return seen


@settings(max_examples=150, deadline=None)
@given(order=orders, epoch=st.integers(0, 3))
def test_ranks_partition_every_epoch_without_loss_or_overlap_in_equally_many_steps(order: Order, epoch: int) -> None:
    by_rank = [steps(replace(order, rank=rank), epoch) for rank in range(order.world)]
    assert {len(rank) for rank in by_rank} == {order.steps_per_epoch}
    seen = Counter(example for rank in by_rank for step in rank for example in step)
    everything = [(shard, place) for shard, count in enumerate(order.counts) for place in range(count)]
    assert seen == Counter(everything)


@settings(max_examples=60, deadline=None)
@given(order=orders)
def test_every_batch_knows_how_many_examples_all_ranks_see_in_its_step(order: Order) -> None:
    told = [
        [total for block in replace(order, rank=rank).blocks(0) for _, total in block.batches]
        for rank in range(order.world)
    ]
    seen = [steps(replace(order, rank=rank), 0) for rank in range(order.world)]
    totals = [sum(map(len, step)) for step in zip(*seen, strict=True)]
    assert all(rank == totals for rank in told)
    assert max(totals) <= order.batch_size * order.world


@settings(max_examples=60, deadline=None)
@given(order=orders, first=st.integers(0, 5))
def test_starting_at_a_later_block_gives_the_rest_of_the_same_epoch(order: Order, first: int) -> None:
    whole = list(order.blocks(1))
    assert list(order.blocks(1, first=first)) == whole[first:]


def test_epochs_and_seeds_differ_and_the_same_ones_agree() -> None:
    order = Order(counts=(50, 50), chunk=4, open_shards=2, batch_size=5, buffer=20, seed=0)
    assert steps(order, 0) == steps(order, 0)
    assert steps(order, 0) != steps(order, 1)
    assert steps(order, 0) != steps(replace(order, seed=1), 0)


def test_a_buffer_mixes_examples_of_many_shards() -> None:
    order = Order(counts=(64,) * 8, chunk=4, open_shards=8, batch_size=8, buffer=128, seed=0)
    mixed = [len({shard for shard, _ in step}) for step in steps(order, 0)]
    assert np.mean(mixed) > 4


def test_length_groups_hold_similar_lengths_and_no_step_has_a_favourite_length() -> None:
    order = Order(counts=(64,), chunk=4, open_shards=1, batch_size=8, buffer=64, seed=0)
    (block,) = order.blocks(0)
    lengths = np.random.default_rng(0).integers(10, 500, 64)
    groups = batches(block, lengths)
    assert sorted(place for group in groups for place in group) == list(range(64))
    spread = np.mean([np.ptp(lengths[group]) for group in groups])
    plain = np.mean([np.ptp(lengths[group]) for group in batches(block)])
    assert spread < plain / 4
    means = [lengths[group].mean() for group in groups]
    assert means != sorted(means)


def test_split_is_even_and_complete() -> None:
    assert split(10, 4) == [3, 3, 2, 2]
    assert split(1, 3) == [1, 0, 0]
