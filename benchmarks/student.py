"""The student's training step on a store, against the same step with the teacher in the loop.

The loop's images are decoded and preprocessed beforehand, so that its time includes only the teacher's forward passes.
"""

import csv
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.loop import HfLoop
from benchmarks.measure import Comparison, take_turns, timed, training_step
from benchmarks.setup import Setup
from sekd.store import Store
from stage2_student import config as settings
from stage2_student.training import assemble

BATCH = 8
STEPS = 4  # that are timed together


def compare_steps(setup: Setup, *, rounds: int) -> Comparison:
    """Seconds of a step of 8 images of every arm; a note says how long the real command waited for input."""
    store = setup.run_pass("store")
    config = settings.StudentConfig(
        model=setup.model,
        data=setup.data,
        store=str(store.path),
        runs=str(setup.folder / "runs"),
        lora=settings.LoraSettings(rank=16, alpha=32, dropout=0.0),
        optim=settings.OptimConfig(batch_size=BATCH),
        stream=settings.StreamConfig(buffer=BATCH, workers=0),
        trainer=settings.TrainerConfig(progress=False),
        validation=settings.ValidationConfig(times=0, held_out=0.0, images=0),
    )
    module, data = assemble(config, store)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module.to(device)
    batch = next(iter(data.train_dataloader())).to(device)
    student = module.student
    half = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")  # as the command's trainer

    def optimised(loss: Callable[[], Tensor]) -> Callable[[], None]:
        return training_step(module, half(loss))

    step = optimised(lambda: module.training_loss(batch).total)
    bare = optimised(lambda: student(batch, with_format=False).last_ND.mean())

    def step_with_teacher(*, cached: bool) -> None:
        student.vlm.eval()
        with student.vlm.disable_adapter():
            loops[cached].ask(questions, images)
        student.vlm.train()
        step()

    loops = {cached: HfLoop(student.base, setup.model, cached=cached) for cached in (False, True)}
    examples = setup.dataset.examples[:BATCH]
    images = loops[True].images(setup.pictures(examples))
    questions = [setup.dataset.questions(example) for example in examples]
    jobs: dict[str, Callable[[], None]] = {
        "step": step,
        "forward and backward without a loss": bare,
        "step with teacher": partial(step_with_teacher, cached=False),
        "step with teacher, key-value cache": partial(step_with_teacher, cached=True),
    }
    arms = {name: timed(job, times=STEPS) for name, job in jobs.items()}
    ratios = [("step", arm) for arm in arms if arm != "step"]
    seconds = take_turns(arms, rounds=rounds)
    return Comparison(f"student, {setup.title}: a step of {BATCH} images", seconds, ratios, [input_wait(setup, store)])


def input_wait(setup: Setup, store: Store) -> str:
    """The share of its steps that the student's command waits for input, after the first reading."""
    runs = setup.folder / "waiting"
    overrides = ("trainer.log_every=4", "trainer.loggers=[csv]", "trainer.progress=false", f"optim.batch_size={BATCH}")
    off = ("validation.images=0", "validation.times=0", "validation.held_out=0", "rehearsal.requests=[]")
    epochs = f"optim.epochs={-(-24 * BATCH // len(setup.dataset.examples))}"  # at least 24 steps
    where = (f"store={store.path}", f"runs={runs}", "name=bench", "stream.buffer=64")
    setup.run("stage2_student", epochs, *where, *overrides, *off)
    with next(runs.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/input_wait_share")][1:]
    share = statistics.mean(float(row["train/input_wait_share"]) for row in rows)
    rate = statistics.median(float(row["train/images_per_second"]) for row in rows)
    return f"the command `stage2_student` waits for input {100 * share:.1f} % of the time, at {rate:.0f} images/s"
