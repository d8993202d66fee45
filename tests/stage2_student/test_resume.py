"""A run that was interrupted at any step and resumed is, bit for bit, the run that was not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from student_settings import Configure
from test_training import losses_of, run_of

from sekd.errors import SekdError
from sekd.store import Store
from stage2_student.config import StreamConfig, StudentConfig, TrainerConfig, ValidationConfig
from stage2_student.module import StudentModule
from stage2_student.runs import RunFolder
from stage2_student.training import train


class PowerCutError(Exception):
    """Ends a run at some moment."""


def cut(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, when: Callable[..., bool]) -> None:
    """Let the power fail on the call of ``owner.name`` for whose arguments ``when`` holds."""
    ordinary = getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            raise PowerCutError
        return ordinary(*args, **kwargs)

    monkeypatch.setattr(owner, name, fail)


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the power fail once ``step`` steps are done."""
    cut(monkeypatch, StudentModule, "on_train_batch_start", when=lambda module, *_: module.global_step == step)


def interrupt_in_validation(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the power fail amidst a validation, once ``step`` steps are done or later."""
    cut(
        monkeypatch,
        StudentModule,
        "validation_step",
        when=lambda module, batch, index, *_: module.global_step >= step and index == 1,
    )


def interrupt_at_the_end(_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the power fail when all is done but for the writing."""
    cut(monkeypatch, RunFolder, "finish", when=lambda *_: True)


def settings(configure: Configure, *, name: str, workers: int, every: int) -> StudentConfig:
    config = configure(
        stream=StreamConfig(buffer=16, open_shards=2, workers=workers),
        validation=ValidationConfig(times=2, held_out=0.1, images=0, batch_size=4),
        trainer=TrainerConfig(
            accelerator="cpu",
            devices="1",
            precision="bf16-mixed",
            log_every=1,
            progress=False,
            loggers=["csv"],
            checkpoint_every=every,
        ),
    )
    return replace(config, name=name)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("interrupt", "step", "every", "workers"),
    [
        (interrupt_after, 1, 1, 0),  # the first of twelve
        (interrupt_after, 5, 2, 2),  # between two checkpoints
        (interrupt_after, 6, 3, 1),  # at a checkpoint
        (interrupt_after, 11, 4, 0),  # before the last
        (interrupt_in_validation, 5, 5, 0),  # on the way, at a checkpoint
        (interrupt_in_validation, 10, 4, 0),  # on the way, after a checkpoint
        (interrupt_in_validation, 12, 3, 0),  # at the end, at a checkpoint
        (interrupt_in_validation, 12, 5, 0),  # at the end, after a checkpoint
        (interrupt_at_the_end, 12, 12, 0),
    ],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    interrupt: Callable[[int, pytest.MonkeyPatch], None],
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
        uninterrupted.update(metrics=train(config, store, run), losses=losses_of(run))
        uninterrupted.update(weights=load_file(run.adapter / "adapter_model.safetensors"))
    config = settings(configure, name="cut", workers=workers, every=every)
    run = run_of(config, store)
    with monkeypatch.context() as patch:
        interrupt(step, patch)
        with pytest.raises(PowerCutError):
            train(config, store, run)
    assert run.last_checkpoint() is not None

    run = run_of(config, store)
    metrics = train(config, store, run)
    assert losses_of(run) == uninterrupted["losses"]
    weights = load_file(run.adapter / "adapter_model.safetensors")
    assert weights.keys() == uninterrupted["weights"].keys()
    assert all(weights[name].equal(uninterrupted["weights"][name]) for name in weights)
    for key in ("loss", "steps", "val"):
        assert metrics[key] == uninterrupted["metrics"][key]


def test_a_checkpoint_holds_what_is_trained_and_nothing_of_the_base(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(configure, name="cut", workers=0, every=1)
    run: RunFolder = run_of(config, store)
    interrupt_after(1, monkeypatch)
    with pytest.raises(PowerCutError):
        train(config, store, run)
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    held = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert held
    assert all("lora_" in name for name in held)


class Payload:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_checkpoint_that_was_tampered_with_or_cut_off_is_refused_and_none_of_it_is_executed(
    cut_off: bool, configure: Configure, store: Store, tmp_path: Path
) -> None:
    config = configure(validation=ValidationConfig(times=0, held_out=0.0, images=0))
    run = run_of(config, store)
    run.checkpoints.mkdir()
    file, mark = run.checkpoints / "step=1.ckpt", tmp_path / "mark"
    torch.save({"state_dict": {}, "loss": Payload(mark)}, file)
    torch.load(file, weights_only=False)
    assert mark.exists(), "the payload does nothing: the test shows nothing"
    mark.unlink()
    if cut_off:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SekdError, match=r"step=1\.ckpt is damaged or holds more than numbers .*delete it"):
        train(config, store, run)
    assert not mark.exists()
    assert file.exists()
