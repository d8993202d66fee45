"""Two processes in bfloat16, with reading processes of their own and single questions rehearsed, killed and resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import killed_run
import pytest
from hf_teacher import store_pass
from safetensors.torch import load_file
from test_training import losses_of

from sekd.datasets import DataConfig
from sekd.models import ModelConfig
from sekd.store import Store
from stage2_student.runs import RunFolder, read_settings

REPOSITORY = Path(__file__).parents[2]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_that_were_killed_and_resumed_learn_bit_for_bit_what_others_do(
    tmp_path: Path, model: ModelConfig, data: DataConfig, store: Store
) -> None:
    independent = store_pass(tmp_path, model=model, data=data, paradigm="independent")
    settings = [
        f"model.path={model.path}",
        f"data.root={data.root}",
        "data.within={kingdom:[Fauna]}",
        f"store={store.path}",
        f"runs={tmp_path}/runs",
        f"rehearsal={{paradigm:independent,store:{independent.path}}}",
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.precision=bf16-mixed",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "trainer.log_every=1",
        "trainer.checkpoint_every=2",
        "lora.rank=4",
        "optim.batch_size=4",
        "optim.epochs=1",
        "stream.buffer=8",
        "stream.workers=1",
        "validation.images=0",
        "validation.times=0",
    ]
    whole = run("-m", "stage2_student", *settings, "name=whole")
    assert whole.returncode == 0, whole.stderr
    cut = run(killed_run.__file__, *settings, "name=cut", **{killed_run.STEP: "5"})
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    resumed = run("-m", "stage2_student", *settings, "name=cut")
    assert resumed.returncode == 0, resumed.stderr
    folders = [tmp_path / "runs" / name for name in ("whole", "cut")]
    losses = [losses_of(RunFolder(folder, read_settings(folder) or {})) for folder in folders]
    assert len(losses[0]) == 10  # 49 paths and 25 questions, 2 × 4 at a time
    assert losses[0] == losses[1]
    weights = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    assert all(values.equal(weights[1][name]) for name, values in weights[0].items())
