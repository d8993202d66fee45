"""The pass's parts that need no engine."""

import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sekd.errors import SekdError
from sekd.store import Layout
from stage1_teacher.progress import Progress, Stats, Tolerance
from stage1_teacher.summary import entropy, letter_probabilities
from stage1_teacher.worker import write_behind


def test_shards_are_written_in_their_order_and_no_error_is_lost() -> None:
    done: list[int] = []
    write_behind(partial(done.append, number) for number in range(5))
    assert done == list(range(5))

    def fail() -> None:
        raise SekdError("disk full")

    for jobs in ([fail], [fail, *[partial(done.append, 9)] * 3]):
        with pytest.raises(SekdError, match="disk full"):
            write_behind(jobs)


def test_no_more_than_one_shard_waits_while_one_is_written() -> None:
    gate, made = threading.Event(), []

    def jobs() -> Iterator[Callable[[], None]]:
        for number in range(5):
            made.append(number)
            threading.Timer(0.05, gate.set).start()
            yield lambda number=number: (gate.wait(), made.append(("written", number)))[0]  # type: ignore[misc]

    write_behind(jobs())
    assert made[:3] == [0, 1, 2]
    assert made.index(("written", 0)) < made.index(3)


def test_a_shard_in_the_writers_hands_is_finished_even_when_the_run_stops() -> None:
    gate, done = threading.Event(), []

    def slow() -> None:
        gate.wait()
        done.append(1)

    def stopped() -> Iterator[Callable[[], None]]:
        yield slow
        threading.Timer(0.05, gate.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_behind(stopped())
    assert done == [1]


def test_progress_tells_speed_cache_mass_and_the_end(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    with Progress(Tolerance(tmp_path, share=0.5, images=100), images=100, shown=True) as progress:
        for _ in range(50):
            progress.progress(0, Stats(images=1, steps=4, prompt_tokens=20, cached_tokens=16, letter_mass=3.6))
    said = capsys.readouterr().err
    assert "starting the engine:   0%|" in said
    assert re.search(r"50%\|.*\| 50/100 \[00:00<00:00, .*image/s, .*prefix hits 80 %, letter mass 0\.900\]", said)
    line = Stats(images=50, steps=200, prompt_tokens=1000, cached_tokens=640, letter_mass=180, skipped=2).describe(10)
    assert line == "20 steps/s, 100 tokens/s, prefix hits 64 %, letter mass 0.900, 2 unreadable"


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
    rows = pa.table(
        {
            "options": [["x", "y", "z"], ["x", "y"]],
            "topk_ids": pa.array([[6, 1, 5], [7, 8, 1]], pa.list_(pa.int32(), 3)),
            "topk_logprobs": pa.array(np.log([[0.4, 0.3, 0.1], [0.4, 0.3, 0.1]]).tolist(), pa.list_(pa.float32(), 3)),
        }
    )
    probabilities = letter_probabilities(rows, layout)
    assert probabilities == pytest.approx(np.array([[0.1, 0.4, 0.0, 0.0], [0.0] * 4]))
    assert entropy(probabilities) == pytest.approx([-(0.2 * np.log(0.2) + 0.8 * np.log(0.8)), 0.0])
