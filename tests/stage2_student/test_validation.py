"""Held-out examples: how many there are, who reads them, and that their means are those of all positions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hf_teacher import store_pass
from student_settings import PLAIN, Configure

from sekd.datasets import DataConfig
from sekd.errors import SekdError
from sekd.models import ModelConfig
from sekd.store import Store
from stage2_student import processes
from stage2_student.batch import Batch
from stage2_student.checks import check_settings
from stage2_student.config import OptimConfig, RehearsalConfig, StreamConfig, ValidationConfig
from stage2_student.data import HeldOutBatches
from stage2_student.module import means, sums
from stage2_student.processes import in_processes
from stage2_student.training import assemble


@pytest.mark.parametrize(("share", "most", "held"), [(0.1, 1000, 5), (0.5, 3, 2), (0.1, 4, 3), (0.0, 4, 0)])
def test_no_more_images_are_held_out_than_the_share_and_the_bound_say_and_all_others_are_trained_on(
    share: float, most: int, held: int, configure: Configure, store: Store
) -> None:
    """Every n-th one, so that a bound of 3 of 50 gives every 17th: two."""
    validation = ValidationConfig(held_out=share, held_out_images=most, images=0)
    _, data = assemble(configure(validation=validation, optim=OptimConfig(epochs=1)), store)
    held_out = [name for loader in data.val_dataloader() for batch in loader for name in batch.names]  # type: ignore[union-attr]
    trained_on = {name for batch in data.train_dataloader() for name in batch.names}
    assert len(held_out) == len(set(held_out)) == held
    assert len(trained_on) == 50 - held
    assert not trained_on & set(held_out)


def test_a_bound_below_one_image_is_refused(configure: Configure) -> None:
    with pytest.raises(SekdError, match=r"validation\.held_out_images is at least 1, not 0"):
        check_settings(configure(validation=ValidationConfig(held_out_images=0)))


def test_ranks_share_the_held_out_images_in_equally_many_batches_and_their_means_are_one_processs(
    configure: Configure, store: Store
) -> None:
    """Six batches and four ranks: two of them have one batch less, and see another that counts for nothing."""
    config = configure(validation=ValidationConfig(held_out=0.3334, images=0, batch_size=4), lora=PLAIN)
    module, data = assemble(config, store)
    letters = list(store.layout.letter_ids)

    def seen(loader: HeldOutBatches) -> list[Batch]:
        return [batch for batch in loader if batch.images]

    alone = seen(data.held_out_of(0, 1))
    by_rank = [data.held_out_of(rank, 4) for rank in range(4)]
    assert {len(list(loader)) for loader in by_rank} == {len(loader) for loader in by_rank} == {2}
    assert len(alone) == 6
    names = [name for loader in by_rank for batch in seen(loader) for name in batch.names]
    assert sorted(names) == sorted(name for batch in alone for name in batch.names)

    def parts(batches: list[Batch]) -> list:
        return [sums(module.training_loss(batch), batch, letters) for batch in batches]

    together = means(parts([batch for loader in by_rank for batch in seen(loader)]))
    assert together == pytest.approx(means(parts(alone)), rel=1e-5)


def test_a_mean_counts_every_position_alike_however_many_a_batch_has() -> None:
    assert means([{"a": (6.0, 3), "b": (1.0, 1)}, {"a": (2.0, 1)}]) == {"a": 2.0, "b": 1.0}


def test_workers_read_the_held_out_images_and_change_neither_batch_nor_order(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(validation=ValidationConfig(held_out=0.3334, images=0, batch_size=4))
    loaders = {}
    for workers in (0, 2):
        _, data = assemble(replace(config, stream=StreamConfig(workers=workers)), store)
        loaders[workers] = data.held_out_of(0, 1)
    expected = list(loaders[0])
    started: list[int] = []

    def note(*args: Any, **options: Any) -> Any:
        started.append(options["processes"])
        return in_processes(*args, **options)

    monkeypatch.setattr(processes, "in_processes", note)
    got = list(loaders[2])
    assert started == [2]
    assert [batch.names for batch in got] == [batch.names for batch in expected]
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine.inputs, theirs.inputs, rtol=0, atol=0)


def test_nothing_is_written_down_of_a_level_without_a_step_in_the_batch(
    model: ModelConfig, data: DataConfig, configure: Configure, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Single questions: a batch of two has two levels at most, of four."""
    independent = store_pass(tmp_path_factory.mktemp("singles"), model=model, data=data, paradigm="independent")
    config = configure(
        rehearsal=RehearsalConfig(paradigm="independent", share=1.0), optim=OptimConfig(batch_size=2), lora=PLAIN
    )
    module, parts = assemble(config, store, independent)
    batches = list(parts.train_dataloader())
    single = next(batch for batch in batches if len(batch.answers_N) == 2)
    recorded = means([sums(module.training_loss(single), single, list(store.layout.letter_ids))])
    assert not any(math.isnan(value) for value in recorded.values())
    levels = {single.level_names[level] for level in single.levels_N}
    assert {name.partition("/")[2] for name in recorded} - {""} == levels
