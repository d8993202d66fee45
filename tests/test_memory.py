"""The memory estimates agree with what is counted on a real model of two layers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForImageTextToText

from sekd.config_folders import CONF
from sekd.embedded import BASE
from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.memory import GIB, Estimate, ModelSize, lora_parameters, read_size, saved_bytes, student_memory
from sekd.models import ModelConfig
from stage1_teacher.generate import engine_memory
from stage2_student import __main__  # noqa: F401 - registers the schema
from stage2_student.config import LoraSettings
from stage2_student.model import Student

MODEL = ModelConfig("tiny", str(BASE), dtype="float32")
TARGETS = LoraSettings().targets
# By their published configurations.
SEVEN_B = ModelSize(
    8_292_166_656, 28, hidden=3584, intermediate=18944, query=3584, key=512, vocab=152064, dtype="bfloat16"
)
PUBLISHED = {
    "qwen2_5_vl_3b": ModelSize(
        3_754_622_976, 36, hidden=2048, intermediate=11008, query=2048, key=256, vocab=151936, dtype="bfloat16"
    ),
    "qwen2_5_vl_7b": SEVEN_B,
    "qwen3_vl_8b": ModelSize(
        8_767_123_696, 36, hidden=4096, intermediate=12288, query=4096, key=1024, vocab=151936, dtype="bfloat16"
    ),
}
PATH_TOKENS = 1800  # an image of a million pixels, six questions and their answers


@pytest.fixture(scope="module")
def vlm() -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)


def test_parameters_are_counted_without_reading_a_weight(vlm: torch.nn.Module) -> None:
    size = read_size(MODEL)
    unique = {parameter.data_ptr(): parameter.numel() for parameter in vlm.parameters()}
    assert size.parameters == sum(unique.values())
    assert (size.layers, size.hidden) == (vlm.config.text_config.num_hidden_layers, vlm.config.text_config.hidden_size)


def test_lora_parameters_are_those_that_train(vlm: torch.nn.Module) -> None:
    student = Student(vlm, LoraSettings(rank=4))
    trained = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    assert lora_parameters(read_size(MODEL), 4, TARGETS) == trained


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(dtype: torch.dtype, dropout: float) -> None:
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=dtype)
    student = Student(model, LoraSettings(rank=4, dropout=dropout)).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    ids = torch.randint(10, 100, (2, 64))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        student.decoder(input_ids=ids, use_cache=False)
    size = read_size(MODEL)
    estimate = size.layers * saved_bytes(size, str(dtype).removeprefix("torch."), dropout=dropout > 0)
    assert estimate == pytest.approx(sum(kept.values()) / ids.numel(), rel=0.2)


def test_a_student_of_seven_billion_parameters_needs_checkpointing_on_a_large_card() -> None:
    settings = {"dtype": "bfloat16", "tokens": 4 * 1800, "positions": 100, "rank": 64, "targets": TARGETS}
    kept = student_memory(SEVEN_B, **settings, dropout=True, checkpointing=False, cuda=False)
    recomputed = student_memory(SEVEN_B, **settings, dropout=True, checkpointing=True, cuda=False)
    assert recomputed.total < 30 * GIB < 80 * GIB < kept.total


def test_processes_that_share_the_frozen_weights_divide_nothing_else() -> None:
    settings = {"dtype": "bfloat16", "tokens": 4 * 1800, "positions": 100, "rank": 64, "targets": TARGETS}
    alone = student_memory(SEVEN_B, **settings, dropout=True, checkpointing=True, cuda=False).parts
    shared = student_memory(SEVEN_B, **settings, dropout=True, checkpointing=True, cuda=False, shards=4).parts
    assert shared.pop("frozen weights") == alone.pop("frozen weights") / 4
    assert shared.pop("gathered weights") > 2 * SEVEN_B.vocab * SEVEN_B.hidden * 2
    assert shared == alone


@pytest.mark.parametrize("card", [24, 80])
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_recipe_of_a_card_fits_it(monkeypatch: pytest.MonkeyPatch, model: str, card: int) -> None:
    monkeypatch.setattr("sekd.machine.card_gib", lambda: float(card))
    monkeypatch.setattr("sekd.memory.card_gib", lambda: float(card))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("student", ["data=inat", f"model={model}"])
    assert config.optim.batch_size * config.optim.accumulate == 128
    student_memory(
        PUBLISHED[model],
        dtype="bfloat16",
        tokens=config.optim.batch_size * PATH_TOKENS,
        positions=config.optim.batch_size * 60,
        rank=config.lora.rank,
        targets=list(config.lora.targets),
        dropout=config.lora.dropout > 0,
        checkpointing=config.trainer.gradient_checkpointing,
        cuda=True,
    ).check("the recipe is wrong")


def test_what_cannot_fit_is_refused_with_the_sum_and_what_to_do() -> None:
    estimate = Estimate({"weights": 30 * GIB, "KV cache": GIB}, 24 * GIB, "the GPU")
    with pytest.raises(SekdError, match=r"31\.0 of 24\.0 GiB on the GPU .*this cannot fit; take a smaller model"):
        estimate.check("take a smaller model")


def test_the_engine_takes_what_is_left_for_its_cache_and_needs_room_for_one_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sekd.memory.card_gib", lambda: 24.0)
    engine = EngineConfig(device="cuda", max_model_len=8192, kv_cache_gb=None, memory_share=0.92)
    fits = engine_memory(SEVEN_B, engine, layers=(28,), engines=1)
    assert fits.total == pytest.approx(0.92 * 24 * GIB)
    token = fits.parts["KV cache"] / (2 * (2 * 28 * 512 + 3584))
    assert token > 8192
    with pytest.raises(SekdError, match="cannot fit"):
        engine_memory(SEVEN_B, replace(engine, max_model_len=200_000), layers=(28,), engines=1).check("…")


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((BASE / "config.json").read_text())
    with pytest.raises(SekdError, match=r"holds no \*\.safetensors"):
        read_size(ModelConfig("empty", str(tmp_path)))
