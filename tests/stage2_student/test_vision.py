"""What the frozen vision tower makes of an image is computed once, kept within bounds, and changes no loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from student_settings import Configure
from test_training import losses_of, run_of

from sekd.errors import SekdError
from sekd.store import Store
from stage2_student.config import LoraSettings, StudentConfig
from stage2_student.training import assemble, train
from stage2_student.vision import VisionCache, check_takes_vision

IMAGE_BYTES = 9 * 128 * 4  # tokens of one image, hidden size, float32


def count_images(vlm: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images every later call of the tower gets."""
    seen: list[int] = []
    ordinary = vlm.model.get_image_features

    def counted(pixels: torch.Tensor, *, image_grid_thw: torch.Tensor, **options: Any) -> Any:
        seen.append(len(image_grid_thw))
        return ordinary(pixels, image_grid_thw=image_grid_thw, **options)

    monkeypatch.setattr(vlm.model, "get_image_features", counted)
    return seen


@pytest.fixture
def plain(configure: Configure) -> StudentConfig:
    return configure(lora=LoraSettings(rank=4, alpha=8, dropout=0.0))


def test_kept_images_give_the_same_states_and_the_tower_sees_each_once(
    plain: StudentConfig, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = assemble(plain, store)
    batches = list(data.train_dataloader())
    expected = [module.student(batch).last_ND for batch in batches]
    seen = count_images(module.student.base, monkeypatch)
    module.student.cache_vision(tmp_path, limit_gb=1)
    for batch, states in zip(batches, expected, strict=True):
        torch.testing.assert_close(module.student(batch).last_ND, states, atol=1e-5, rtol=1e-5)
    assert sum(seen) == len({name for batch in batches for name in batch.names}) == 45
    assert len(batches) > len(seen), "no batch was kept whole: the second epoch shows nothing"


def test_a_full_file_takes_no_more_and_what_has_no_room_is_computed(
    plain: StudentConfig, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = assemble(plain, store)
    batch = next(iter(data.train_dataloader()))
    expected = module.student(batch).last_ND
    seen = count_images(module.student.base, monkeypatch)
    module.student.vision = VisionCache(tmp_path, limit_gb=3.5 * IMAGE_BYTES / 1e9)
    for _ in range(2):
        torch.testing.assert_close(module.student(batch).last_ND, expected, atol=1e-5, rtol=1e-5)
    assert module.student.vision.written == 3 * IMAGE_BYTES
    assert seen == [8, 5]


def test_a_run_that_keeps_images_has_the_losses_of_one_that_does_not_and_leaves_no_file(
    plain: StudentConfig, store: Store
) -> None:
    found = []
    for limit in (0.0, 1.0):
        config = replace(plain, name=f"kept{limit}", trainer=replace(plain.trainer, vision_cache_gb=limit))
        run = run_of(config, store)
        train(config, store, run)
        found.append([float(loss) for loss in losses_of(run).values()])
        assert {file.name for file in run.path.iterdir()} == {"adapter", "config.yaml", "logs", "metrics.json"}
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_model_that_cannot_be_given_kept_images_is_refused() -> None:
    with pytest.raises(SekdError, match="leave it at 0"):
        check_takes_vision(torch.nn.Linear(1, 1))
