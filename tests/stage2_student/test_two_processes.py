"""Two processes in bfloat16, with reading processes of their own and single questions rehearsed, cut off and resumed.

Whether each has the whole model or they share its frozen weights, they learn the same, bit for bit.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import failing_run
import pytest
from hf_teacher import store_pass
from safetensors.torch import load_file
from test_training import losses_of

from sekd.datasets import DataConfig
from sekd.models import ModelConfig
from sekd.recent import read_settings
from sekd.store import Store
from stage2_student.runs import RunFolder

REPOSITORY = Path(__file__).parents[2]
SAID = "error: reader-0, a process that reads the store, was killed by SIGKILL"
LIMIT = 600  # seconds; a run that takes longer waits for something that does not come
Start = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def start(runs: Path, model: ModelConfig, data: DataConfig, store: Store) -> Start:
    """Starts or resumes the run of a name, by the command itself; with a fault in the process of a rank at a step."""
    independent = store_pass(runs / "artifacts", model=model, data=data, paradigm="independent")
    settings = [
        f"model.path={model.path}",
        f"data.root={data.root}",
        "data.within={kingdom:[Fauna]}",
        f"store={store.path}",
        f"runs={runs}",
        f"rehearsal={{paradigm:independent,store:{independent.path}}}",
        "trainer.devices=2",
        "trainer.precision=bf16-mixed",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "trainer.log_every=1",
        "trainer.checkpoint_every=2",
        "lora.rank=4",
        "optim.lr=1e-2",
        "optim.batch_size=4",
        "optim.epochs=1",
        "stream.buffer=8",
        "stream.workers=1",
        "validation={times:1,held_out:0.1,images:2,batch_size:2}",
    ]

    def run(name: str, trainer: str, *, fault: str = "", rank: int = 0, step: int = -1) -> Any:
        faulty = {failing_run.FAULT: fault, failing_run.RANK: str(rank), failing_run.STEP: str(step)}
        return subprocess.run(
            [sys.executable, failing_run.__file__, *settings, f"trainer={trainer}", f"name={name}"],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **faulty},
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
        )

    return run


@pytest.fixture(scope="module")
def whole(start: Start) -> str:
    """The name of a run that nothing cut off."""
    done = start("whole", "ddp")
    assert done.returncode == 0, done.stderr
    return "whole"


def assert_same(runs: Path, *names: str) -> None:
    """Runs of these names logged the same losses and scores, and wrote the same adapter."""
    folders = [runs / name for name in names]
    records = [RunFolder(folder, read_settings(folder) or {}) for folder in folders]
    losses = [losses_of(record) for record in records]
    assert len(losses[0]) == 9  # 45 paths and 23 questions, 2 × 4 at a time
    assert losses[0] == losses[1]
    metrics = [record.metrics() or {} for record in records]
    assert metrics[0]["val"]["hca"] >= 0
    assert [metrics[0][key] for key in ("loss", "steps", "val")] == [
        metrics[1][key] for key in ("loss", "steps", "val")
    ]
    weights = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    assert all(values.equal(weights[1][name]) for name, values in weights[0].items())


def test_two_processes_that_were_cut_off_and_resumed_learn_bit_for_bit_what_others_do(
    start: Start, whole: str, runs: Path
) -> None:
    cut = start("ddp", "ddp", fault=failing_run.READER_KILLED, rank=1, step=1)
    assert cut.returncode, cut.stdout
    assert SAID in cut.stderr
    cut = start("ddp", "ddp", fault=failing_run.KILLED, rank=0, step=7)
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    resumed = start("ddp", "ddp")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(runs, whole, "ddp")


def test_two_processes_that_share_the_frozen_weights_learn_bit_for_bit_what_others_do(
    start: Start, whole: str, runs: Path
) -> None:
    cut = start("fsdp", "fsdp", fault=failing_run.READER_KILLED, rank=0, step=2)
    assert cut.returncode == 2, cut.stderr
    assert SAID in cut.stderr
    assert "Traceback" not in cut.stderr, "the other process was not ended with this one"
    resumed = start("fsdp", "fsdp")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(runs, whole, "fsdp")
