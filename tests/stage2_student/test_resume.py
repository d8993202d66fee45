"""A run that was interrupted at any step and resumed is, bit for bit, the run that was not."""

from dataclasses import replace
from typing import Any

import pytest
from safetensors.torch import load_file
from student_settings import Configure
from test_training import losses_of, run_of

from sekd.store import Store
from stage2_student.config import StreamConfig, StudentConfig, TrainerConfig, ValidationConfig
from stage2_student.module import StudentModule
from stage2_student.runs import RunFolder
from stage2_student.training import train


class PowerCutError(Exception):
    """Ends a run between two steps."""


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the power fail once ``step`` steps are done."""
    ordinary = StudentModule.on_train_batch_start

    def cut(module: StudentModule, batch: Any, batch_idx: int) -> None:
        if module.global_step == step:
            raise PowerCutError
        ordinary(module, batch, batch_idx)

    monkeypatch.setattr(StudentModule, "on_train_batch_start", cut)


def settings(configure: Configure, *, name: str, workers: int, every: int) -> StudentConfig:
    config = configure(
        stream=StreamConfig(buffer=16, open_shards=2, workers=workers),
        validation=ValidationConfig(times=2, held_out=0.1, images=0, batch_size=4),
        trainer=TrainerConfig(
            accelerator="cpu", devices="1", log_every=1, progress=False, loggers=["csv"], checkpoint_every=every
        ),
    )
    return replace(config, name=name)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(("step", "every", "workers"), [(1, 1, 0), (5, 2, 2), (6, 3, 1), (11, 4, 0)])
def test_an_interrupted_run_goes_on_bit_for_bit(
    step: int,
    every: int,
    workers: int,
    configure: Configure,
    store: Store,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not uninterrupted:
        config = settings(configure, name="whole", workers=0, every=100)
        run = run_of(config, store)
        train(config, store, run)
        uninterrupted.update(losses=losses_of(run), weights=load_file(run.adapter / "adapter_model.safetensors"))
    config = settings(configure, name="cut", workers=workers, every=every)
    run = run_of(config, store)
    with monkeypatch.context() as patch:
        interrupt_after(step, patch)
        with pytest.raises(PowerCutError):
            train(config, store, run)
    assert run.last_checkpoint() is not None

    run = run_of(config, store)
    train(config, store, run)
    assert losses_of(run) == uninterrupted["losses"]
    weights = load_file(run.adapter / "adapter_model.safetensors")
    assert weights.keys() == uninterrupted["weights"].keys()
    assert all(weights[name].equal(uninterrupted["weights"][name]) for name in weights)


def test_a_checkpoint_holds_what_is_trained_and_nothing_of_the_base(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    config = settings(configure, name="cut", workers=0, every=1)
    run: RunFolder = run_of(config, store)
    interrupt_after(1, monkeypatch)
    with pytest.raises(PowerCutError):
        train(config, store, run)
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    held = torch.load(checkpoint, weights_only=False)["state_dict"]
    assert held
    assert all("lora_" in name for name in held)
