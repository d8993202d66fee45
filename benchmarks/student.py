"""The student's training step on a store, against the same step with the teacher in the loop.

The loop's images are decoded and preprocessed beforehand, so that it pays for the teacher's forward passes alone.
"""

import csv
import statistics
from collections.abc import Callable

import torch

from benchmarks.loop import HfLoop
from benchmarks.measure import Comparison, take_turns, timed
from benchmarks.setup import Setup, run
from sekd.store import Store
from stage2_student.config import (
    LoraSettings,
    OptimConfig,
    StreamConfig,
    StudentConfig,
    TrainerConfig,
    ValidationConfig,
)
from stage2_student.training import assemble

BATCH = 8


def compare_steps(setup: Setup, *, rounds: int) -> Comparison:
    """Seconds of a step of 8 images of every arm; a note says how long the real command waited for input."""
    store = setup.run_pass("store")
    config = StudentConfig(
        model=setup.model,
        data=setup.data,
        store=str(store.path),
        runs=str(setup.folder / "runs"),
        lora=LoraSettings(rank=16, alpha=32, dropout=0.0),
        optim=OptimConfig(lr=1e-3, batch_size=BATCH),
        stream=StreamConfig(buffer=BATCH, workers=0),
        trainer=TrainerConfig(progress=False),
        validation=ValidationConfig(times=0, held_out=0.0, images=0),
    )
    module, data = assemble(config, store)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module.to(device)
    batch = next(iter(data.train_dataloader())).to(device)
    trained = [weights for weights in module.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    student = module.student

    def step() -> None:
        loss = module.training_loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss.item()  # waits for the device

    def step_with_teacher(*, cached: bool) -> Callable[[], None]:
        teacher = HfLoop(student.base, setup.model, cached=cached)
        examples = setup.dataset.examples[:BATCH]
        images = teacher.images(setup.pictures(examples))
        questions = [setup.dataset.questions(example) for example in examples]

        def both() -> None:
            student.vlm.eval()
            with student.vlm.disable_adapter():
                teacher.ask(questions, images)
            student.vlm.train()
            step()

        return both

    arms = {
        "step": timed(step),
        "step with teacher": timed(step_with_teacher(cached=False)),
        "step with teacher, key-value cache": timed(step_with_teacher(cached=True)),
    }
    ratios = [("step", arm) for arm in arms if arm != "step"]
    seconds = take_turns(arms, rounds=rounds)
    return Comparison(f"student, {setup.title}: a step of {BATCH} images", seconds, ratios, [input_wait(setup, store)])


def input_wait(setup: Setup, store: Store) -> str:
    """The share of its steps that the student's command waits for input, after the first reading."""
    runs = setup.folder / "waiting"
    overrides = ("trainer.log_every=4", "trainer.loggers=[csv]", "trainer.progress=false", f"optim.batch_size={BATCH}")
    off = ("validation.images=0", "validation.times=0", "validation.held_out=0", "stream.buffer=64")
    epochs = f"optim.epochs={-(-24 * BATCH // setup.images)}"  # at least 24 steps
    run("stage2_student", setup, epochs, f"store={store.path}", f"runs={runs}", "name=bench", *overrides, *off)
    with next(runs.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/input_wait_share")][1:]
    share = statistics.mean(float(row["train/input_wait_share"]) for row in rows)
    rate = statistics.median(float(row["train/images_per_second"]) for row in rows)
    return f"the command `stage2_student` waits for input {100 * share:.1f} % of the time, at {rate:.0f} images/s"
