"""The pass's parts that need no engine."""

import threading
from pathlib import Path

import numpy as np
import pytest

from sekd.errors import SekdError
from sekd.store import Layout
from stage1_teacher.progress import Progress, clock, describe
from stage1_teacher.stats import Stats
from stage1_teacher.summary import entropy, letter_probabilities
from stage1_teacher.unreadable import Tolerance
from stage1_teacher.worker import AsyncWriter


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


def test_a_shard_that_is_asked_again_is_counted_once() -> None:
    progress = Progress(Tolerance(Path("data"), share=0.5, images=4), images=4, shown=False)
    skipped = Stats(images=1, skipped=1, reasons=("a.jpg (truncated)",))
    progress.progress(0, Stats(images=1, steps=4))
    progress.progress(1, skipped)
    progress.done(0, None)
    progress.requeued(1)
    assert progress.stats == Stats(images=1, steps=4)
    progress.progress(1, skipped)
    progress.done(1, None)
    assert progress.stats == Stats(images=2, steps=4, skipped=1, reasons=("a.jpg (truncated)",))


def test_entropy_is_that_of_the_options_alone() -> None:
    layout = Layout(k=3, layers=(), hidden_size=4, hidden_dtype="float32", vocab_size=9, letter_ids=(5, 6, 7, 8))
    row = {"options": ["x", "y", "z"], "topk_ids": [6, 1, 5], "topk_logprobs": np.log([0.4, 0.3, 0.1]).tolist()}
    probabilities = letter_probabilities(row, layout)
    assert probabilities == pytest.approx([0.1, 0.4, 0.0])
    assert entropy(probabilities) == pytest.approx(-(0.2 * np.log(0.2) + 0.8 * np.log(0.8)))
    assert entropy(np.zeros(3)) == 0
