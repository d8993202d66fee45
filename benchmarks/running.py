"""The student's own command on a small store: seconds to the first step, and the share of steps spent on waiting."""

import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.arms import Job
from benchmarks.setting import settings
from sekd.store import Store
from stage2_student.config import OptimConfig, StreamConfig, StudentConfig
from stage2_student.runs import RunFolder
from stage2_student.training import train


def measure_first_step(job: Job, store: Store, folder: Path, *, rounds: int) -> list[float]:
    """Seconds from the command to the first step's checkpoint, in processes of their own."""
    return [_first_step(job, store, folder / f"first{number}") for number in range(rounds)]


def _first_step(job: Job, store: Store, folder: Path) -> float:
    command = [
        sys.executable,
        *("-m", "stage2_student", "name=first", f"runs={folder}", f"store={store.path}", f"data.root={job.data.root}"),
        *(
            f"model.path={job.model.path}",
            "trainer.checkpoint_every=1",
            "trainer.max_steps=1",
            "trainer.progress=false",
        ),
        *("trainer.accelerator=cpu", "validation.images=0", "validation.times=0", "validation.held_out=0"),
    ]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not any(folder.rglob("*.ckpt")):
            if process.poll() is not None and not (folder / "first" / "metrics.json").exists():
                raise RuntimeError(process.stderr.read().decode() if process.stderr else "the run ended at once")
            time.sleep(0.01)
        taken = time.perf_counter() - begin
        process.communicate()
    return taken


def measure_waiting(job: Job, store: Store, folder: Path, *, batch: int, steps: int) -> dict[str, Any]:
    """A run of about ``steps`` steps; the first reading, which holds the workers' start, is told apart."""
    epochs = -(-steps // -(-job.images // batch))
    config = settings(
        job,
        store,
        folder,
        optim=OptimConfig(lr=1e-3, batch_size=batch, epochs=epochs),
        stream=StreamConfig(buffer=8 * batch, workers=1),
        name="waiting",
        force=True,
    )
    readings = _readings(config, store)
    return {
        "steps": len(readings) * config.trainer.log_every,
        "first_share": readings[0][0],
        "share": statistics.mean(share for share, _ in readings[1:]),
        "most": max(share for share, _ in readings[1:]),
        "images_a_second": statistics.median(rate for _, rate in readings[1:]),
    }


def _readings(config: StudentConfig, store: Store) -> list[tuple[float, float]]:
    """Share of waiting and images a second, as the run wrote them down."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run = RunFolder.of(config, fingerprint=store.fingerprint)
    run.prepare(force=True)
    train(config, store, run)
    with next(run.path.glob("logs/*/metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/input_wait_share")]
    return [(float(row["train/input_wait_share"]), float(row["train/images_per_second"])) for row in rows]
