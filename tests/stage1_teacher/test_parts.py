"""The pass's parts that need no engine."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekd.errors import SekdError
from sekd.store import Layout
from stage1_teacher.config import TeacherConfig
from stage1_teacher.progress import clock, describe
from stage1_teacher.shard_queue import ShardQueue
from stage1_teacher.stats import Stats
from stage1_teacher.stop import Stop
from stage1_teacher.summary import entropy, letter_probabilities
from stage1_teacher.team import run_team
from stage1_teacher.worker import AsyncWriter


@given(st.integers(0, 12), st.lists(st.sampled_from(["a", "b", "c"]), max_size=40), st.randoms(use_true_random=False))
def test_every_shard_is_written_once_whoever_is_lost(count: int, turns: list[str], rng: object) -> None:
    queue, written = ShardQueue(range(count), patience=100), []
    for worker in [*turns, *["last"] * (count + 1)]:
        shard = queue.next_for(worker)
        if shard is None:
            continue
        if worker != "last" and rng.random() < 0.5:  # type: ignore[attr-defined]
            assert queue.lost(worker) == [shard]
        else:
            queue.written(worker, shard)
            written.append(shard)
    while (shard := queue.next_for("last")) is not None:
        queue.written("last", shard)
        written.append(shard)
    assert sorted(written) == list(range(count))
    assert not queue.open


def test_a_shard_that_kills_its_workers_is_given_up_and_named() -> None:
    queue = ShardQueue([4, 5], patience=2)
    for worker in ("a", "b"):
        assert queue.next_for(worker) == 4
        queue.lost(worker)
    assert queue.next_for("c") == 5
    queue.written("c", 5)
    assert not queue.open
    assert queue.given_up == [4]


def test_the_async_writer_keeps_the_order_and_loses_no_error() -> None:
    done: list[int] = []
    with AsyncWriter() as writer:
        for number in range(5):
            writer.submit(lambda number=number: done.append(number))
    assert done == list(range(5))

    def fail() -> None:
        raise SekdError("disk full")

    with pytest.raises(SekdError, match="disk full"), AsyncWriter() as writer:
        writer.submit(fail)


def test_a_shard_in_the_writers_hands_is_finished_even_when_the_run_stops() -> None:
    gate, done = threading.Event(), []

    def slow() -> None:
        gate.wait()
        done.append(1)

    def stopped() -> None:
        with AsyncWriter() as writer:
            writer.submit(slow)
            threading.Timer(0.05, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert done == [1]


def test_progress_tells_speed_cache_mass_and_the_end() -> None:
    line = describe(
        Stats(images=50, steps=200, prompt_tokens=1000, cached_tokens=640, letter_mass=180), images=100, seconds=10
    )
    for part in ("50/100 images", "5.0 images/s", "20 steps/s", "100 tokens/s", "hits 64 %", "mass 0.900", "0:10 left"):
        assert part in line
    assert [clock(seconds) for seconds in (5, 65, 3665, float("inf"))] == ["0:05", "1:05", "1:01:05", "?"]


def test_entropy_is_that_of_the_options_alone() -> None:
    layout = Layout(k=3, layers=(), hidden_size=4, hidden_dtype="float32", vocab_size=9, letter_ids=(5, 6, 7, 8))
    row = {"options": ["x", "y", "z"], "topk_ids": [6, 1, 5], "topk_logprobs": np.log([0.4, 0.3, 0.1]).tolist()}
    probabilities = letter_probabilities(row, layout)
    assert probabilities == pytest.approx([0.1, 0.4, 0.0])
    assert entropy(probabilities) == pytest.approx(-(0.2 * np.log(0.2) + 0.8 * np.log(0.8)))
    assert entropy(np.zeros(3)) == 0


def test_a_team_without_enough_cards_is_refused_before_a_process_starts(
    config: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    config = replace(config, workers=2, engine=replace(config.engine, device="cuda"))
    with Stop() as stop, pytest.raises(SekdError, match="need 2 GPUs, but CUDA_VISIBLE_DEVICES='GPU-a' names 1"):
        run_team(config, Path("nowhere"), [0, 1], report=lambda stats: None, stop=stop)
