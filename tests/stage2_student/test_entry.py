"""The command: what it composes, that it needs no engine, runs on two processes, and repeats itself bit for bit."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from test_training import losses_of, store_bytes

from sekd import machine
from sekd.config_folders import CONF
from sekd.datasets import DataConfig
from sekd.models import ModelConfig
from sekd.recent import read_settings
from sekd.store import Store
from stage2_student.config import LossConfig, RehearsalConfig, StudentConfig
from stage2_student.module import learning_rate_factor
from stage2_student.runs import RunFolder
from stage2_student.training import assemble

REPOSITORY = Path(__file__).parents[2]
WITHOUT_ENGINE = """
import runpy, sys
for name in ("vllm", "sekd.inference", "stage1_teacher"):
    sys.modules[name] = None
runpy.run_module("stage2_student", run_name="__main__", alter_sys=True)
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, model: ModelConfig, data: DataConfig, store: Store) -> Command:
    """Run the entry as a user does, with a small store and a short run."""

    def run(*overrides: str, start: tuple[str, ...] = ("-m", "stage2_student")) -> subprocess.CompletedProcess[str]:
        small = [
            f"model.path={model.path}",
            f"data.root={data.root}",
            "data.within={kingdom:[Fauna]}",
            f"store={store.path}",
            f"runs={tmp_path}/runs",
            "trainer.progress=false",
            "trainer.accelerator=cpu",
            "trainer.log_every=1",
            "lora.rank=4",
            "optim.batch_size=8",
            "optim.epochs=1",
            "stream.buffer=16",
            "validation.images=4",
            "validation.times=0",
        ]
        return subprocess.run(
            [sys.executable, *start, *small, *overrides],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def settings_of(*overrides: str) -> StudentConfig:
    ConfigStore.instance().store(name="student_schema", node=StudentConfig)
    machine.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("student", overrides=list(overrides)))
    assert isinstance(config, StudentConfig)
    return config


@pytest.mark.parametrize("folder", ["loss", "trainer", "model", "data"])
def test_every_choice_of_every_group_composes(folder: str) -> None:
    for file in sorted((CONF / folder).glob("*.yaml")):
        settings = settings_of(f"{folder}={file.stem}")
        assert getattr(settings, folder).name == file.stem


def test_the_embedded_model_has_its_own_recipe_and_any_other_the_defaults() -> None:
    tiny, other = settings_of(), settings_of("model=qwen2_5_vl_7b")
    assert (tiny.lora.rank, tiny.optim.epochs, tiny.optim.lr) == (16, 1, 3e-3)
    assert (other.lora, other.optim) == (StudentConfig().lora, StudentConfig().optim)
    forest, paper = settings_of("model=tiny_forest"), settings_of("recipe=tiny_paper")
    assert replace(forest, model=paper.model, loss=paper.loss, name=paper.name) == paper
    assert forest.loss.format.weight > paper.loss.format.weight, "names of unseen trees must be copied"


def test_the_papers_student_rehearses_nothing_and_counts_every_level_the_same() -> None:
    tiny, paper = settings_of(), settings_of("recipe=tiny_paper")
    assert (paper.rehearsal, paper.loss) == (RehearsalConfig(), LossConfig())
    assert set(tiny.rehearsal.requests) == {"describe", "lineage", "independent"}
    assert replace(paper, rehearsal=tiny.rehearsal, loss=tiny.loss, name=tiny.name) == tiny


def test_ablations_leave_one_loss_each() -> None:
    for name in ("hard", "soft", "hidden"):
        loss = settings_of(f"loss={name}").loss
        assert {other: getattr(loss, other).weight for other in ("hard", "soft", "hidden")} == {
            "hard": 0.0,
            "soft": 0.0,
            "hidden": 0.0,
            name: 1.0,
        }


@pytest.mark.slow
def test_without_engine_or_teacher_a_run_trains_is_recognised_and_reruns_with_another_weight(
    command: Command, store: Store, tmp_path: Path
) -> None:
    before = store_bytes(store)
    first = command(start=("-c", WITHOUT_ENGINE))
    assert first.returncode == 0, first.stderr
    again = command()
    assert again.returncode == 0, again.stderr
    assert "these very settings" in again.stdout
    other = command("loss.soft.weight=0.5", "name=softer")
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "runs" / "softer" / "adapter" / "adapter_model.safetensors").exists()
    assert store_bytes(store) == before


@pytest.mark.slow
def test_a_grid_over_seeds_makes_a_run_each(command: Command, tmp_path: Path) -> None:
    grid = ("loss=hard,soft", "seed=0,1", "validation.images=0", "validation.held_out=0")
    done = command(*grid, start=("-m", "stage2_student", "--multirun"))
    assert done.returncode == 0, done.stderr
    found = [read_settings(file.parent) for file in (tmp_path / "runs").rglob("metrics.json")]
    made = sorted((settings["loss"]["name"], settings["seed"]) for settings in found if settings)
    assert made == [("hard", 0), ("hard", 1), ("soft", 0), ("soft", 1)]


def learn_in_turns(config: StudentConfig, store: Store, *, world: int) -> list[float]:
    """The losses of ``world`` ranks' steps, taken by one process: gradients of their batches, averaged."""
    torch.manual_seed(config.seed)
    module, data = assemble(config, store)
    trained = [weights for weights in module.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optim.lr, weight_decay=0.0)
    steps = data.optimiser_steps(world)
    found = []
    for step, batches in enumerate(zip(*(data.stream_of(rank, world) for rank in range(world)), strict=True)):
        optimizer.param_groups[0]["lr"] = config.optim.lr * learning_rate_factor(step, steps, config.optim)
        loss = torch.stack([module.training_loss(batch).total for batch in batches]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.optim.clip_norm)
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rehearsal", [["recipe=tiny_paper"], []])
def test_two_processes_share_every_epoch_and_learn_what_one_would(
    rehearsal: list[str], command: Command, store: Store, tmp_path: Path, model: ModelConfig, data: DataConfig
) -> None:
    done = command("name=two", "trainer=ddp", "trainer.devices=2", "optim.batch_size=4", "optim.epochs=2", *rehearsal)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "two"
    written = losses_of(RunFolder(run, read_settings(run) or {}))
    alike = ("optim.batch_size=4", "optim.epochs=2", "lora.rank=4", "stream.buffer=16", "stream.workers=0", *rehearsal)
    config = settings_of(*alike)
    expected = learn_in_turns(replace(config, model=model, data=data), store, world=2)
    assert [float(written[step]) for step in range(len(written))] == pytest.approx(expected, rel=1e-3)
    assert len(expected) == 14  # 49 of 50 examples are trained on, 2 × 4 at a time, twice


def test_an_error_is_one_line_and_an_exit_status(command: Command) -> None:
    refused = command("loss.soft.temperature=0")
    assert refused.returncode == 2
    assert refused.stderr.strip() == "error: loss.soft.temperature is above 0, not 0.0"
