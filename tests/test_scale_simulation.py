"""The simulated pass of docs/scale.md: the real pool over simulated nodes, against arithmetic."""

from itertools import product

import pytest

from benchmarks import scale


@pytest.fixture
def equal_nodes(monkeypatch):
    monkeypatch.setattr(scale, "SPREAD", 0.0)
    monkeypatch.setattr(scale, "SLOW_SHARE", 0.0)
    monkeypatch.setattr(scale, "HOURS_TO_LOSS", 1e9)


@pytest.mark.parametrize(("shards", "gpus"), product([1, 7, 64], [1, 3, 64]))
def test_equal_nodes_take_the_start_and_their_share_of_the_shards(equal_nodes, shards, gpus):
    hours, work, again = scale.simulate(shards * scale.SHARD, gpus, seed=0)
    rounds = -(-shards // gpus)
    assert hours * 3600 == pytest.approx(scale.LOAD + rounds * scale.SHARD / scale.RATE)
    assert work == pytest.approx(shards * scale.SHARD / scale.RATE / (gpus * hours * 3600))
    assert again == 0
    assert scale.simulate_array(shards * scale.SHARD, gpus, seed=0) == pytest.approx(hours)


def test_on_one_gpu_a_queue_and_a_job_array_are_the_same_nodes_and_hours():
    hours, _, _ = scale.simulate(400 * scale.SHARD, 1, seed=3)
    assert scale.simulate_array(400 * scale.SHARD, 1, seed=3) == hours


def test_lost_nodes_cost_time_and_no_shard(monkeypatch, equal_nodes):
    calm, _, _ = scale.simulate(400 * scale.SHARD, 8, seed=0)
    monkeypatch.setattr(scale, "HOURS_TO_LOSS", 0.3)
    stormy, work, again = scale.simulate(400 * scale.SHARD, 8, seed=0)
    assert again > 0
    assert stormy > calm
    assert work * 8 * stormy * 3600 == pytest.approx(400 * scale.SHARD / scale.RATE)  # each shard was done once
