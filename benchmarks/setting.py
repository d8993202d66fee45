"""What the student's benchmarks train on: a store by the online teacher, and settings of a short run on it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arms import Job
from benchmarks.online import OnlineTeacher, Step
from sekd.datasets import Dataset, Example, load_dataset
from sekd.inference.schedule import read_image
from sekd.models import load_vlm
from sekd.questions import Question
from sekd.store import Layout, Plan, Store, build_rows
from stage2_student.config import (
    LoraSettings,
    OptimConfig,
    StreamConfig,
    StudentConfig,
    TrainerConfig,
    ValidationConfig,
)

SHARD = 64


def make_store(job: Job, folder: Path) -> Store:
    """The conditioned steps of the job's images, stored."""
    vlm = load_vlm(job.model, dtype=torch.float32)
    dataset = load_dataset(job.data, "train")
    teacher = OnlineTeacher(vlm, job.model, cached=True)
    text = vlm.config.text_config
    layout = Layout(
        k=job.topk,
        layers=(text.num_hidden_layers,),
        hidden_size=text.hidden_size,
        hidden_dtype="float32",
        vocab_size=text.vocab_size,
        letter_ids=teacher.letter_ids,
    )
    store = Store.create(folder / "bench", identity={}, plan=Plan(job.images, SHARD), layout=layout)
    for number in store.missing():
        places = store.plan.examples(number)
        examples = dataset.examples[places.start : places.stop]
        questions = [dataset.questions(example) for example in examples]
        steps = teacher.ask(questions, teacher.images([read_image(dataset.image_path(e)) for e in examples]))
        _write(store, number, dataset, examples, questions, steps)
    return store


def settings(job: Job, store: Store, folder: Path, **changes: Any) -> StudentConfig:
    """A short run without validation, all three losses, one worker."""
    made: dict[str, Any] = {
        "lora": LoraSettings(rank=16, alpha=32, dropout=0.0),
        "optim": OptimConfig(lr=1e-3, batch_size=32, epochs=4),
        "stream": StreamConfig(buffer=128, workers=1),
        "trainer": TrainerConfig(accelerator="cpu", devices="1", log_every=4, progress=False, loggers=["csv"]),
        "validation": ValidationConfig(times=0, held_out=0.0, images=0),
        **changes,
    }
    return StudentConfig(model=job.model, data=job.data, store=str(store.path), runs=str(folder / "runs"), **made)


def _write(
    store: Store,
    number: int,
    dataset: Dataset,
    examples: list[Example],
    questions: list[tuple[Question, ...]],
    steps: list[Step],
) -> None:
    rows: list[dict[str, Any]] = []
    hidden: list[np.ndarray] = []
    for place, (example, asked) in enumerate(zip(examples, questions, strict=True)):
        for index, (question, said) in enumerate(zip(asked, steps, strict=True)):
            top = said.logprobs_BV[place].topk(store.layout.k)
            rows.append(
                {
                    "sample": example.id,
                    "image": str(example.image),
                    "step": index,
                    "n_steps": len(asked),
                    "depth": question.depth,
                    "level": question.level,
                    "options": list(question.options),
                    "answer": said.answers[place],
                    "truth": question.truth,
                    "topk_ids": top.indices.numpy(),
                    "topk_logprobs": top.values.numpy(),
                    "tail_logprob": float(torch.log1p(-top.values.exp().sum().clamp(max=1 - 1e-7))),
                }
            )
            hidden.append(said.hidden_BH[place][None].numpy())
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    store.write_shard(number, build_rows(store.layout, columns), np.stack(hidden), {})
