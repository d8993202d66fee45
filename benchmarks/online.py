"""A pass and its students against what people would use instead, on the same images of the embedded world.

The alternatives: TRL's ``DistillationTrainer``, whose teacher sees the student's own prompt, and the plain way, a loop
over transformers for the answers, then HF's ``Trainer``. Every part is a process; TRL has an environment of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.apart import run_apart
from benchmarks.online_arms import BATCH, DATA, MODEL, RATE
from benchmarks.setup import workers
from sekd.datasets import load_dataset
from sekd.models import load_vlm

TRL = Path(".venv-trl/bin/python")
OFF = ("validation.images=0", "validation.times=0", "validation.held_out=0", "trainer.progress=false")
ARMS = "benchmarks.online_arms"
IMAGES, TESTED = 38 * BATCH, 300  # whole batches: TRL leaves out the rest


def show_online() -> None:
    """Print every part's time and peak memory, and the HCA of every student."""
    print(f"\nonline distillation, {IMAGES} images, one epoch")
    print(f"base, one pass: HCA {hca():.1f} %")
    with tempfile.TemporaryDirectory(prefix="sekd-online-") as folder:
        _show_parts(Path(folder))


def _show_parts(folder: Path) -> None:
    for arm, part, python, command, adapter in _parts(folder, IMAGES):
        if not python.exists():
            print(f"{arm}: not measured, {python} is missing (`make bench` builds it)")
            continue
        used = run_apart([str(python), "-m", *command], stdout=subprocess.DEVNULL)
        score = f", HCA {hca(adapter):.1f} %" if adapter else ""
        took = f"{used.seconds:6.1f} s, {used.processor:.0f} s of a core, {used.memory:.2f} GB at most in a process"
        print(f"{arm:<26}{part:<16}{took}{score}", flush=True)


def _parts(folder: Path, images: int) -> list[tuple[str, str, Path, list[str], Path | None]]:
    """Arm, part, python, command and the adapter that it writes, in turn."""
    here, store = Path(sys.executable), folder / "store"
    pass_over = ["stage1_teacher", f"artifacts={store}", f"data.limit={images}", f"workers={workers()}"]
    same = [f"optim.lr={RATE}", "optim.warmup_steps=2", "optim.final_lr=0", f"optim.batch_size={BATCH}"]
    same += ["recipe=tiny_paper", "trainer.precision=32-true", "lora.rank=16", "lora.alpha=32", "lora.dropout=0"]

    def student(name: str, *more: str) -> tuple[list[str], Path]:
        where = [f"name={name}", f"runs={folder}", f"artifacts={store}"]
        return ["stage2_student", *where, *same, *OFF, *more], folder / name / "adapter"

    trl, plain = folder / "trl", folder / "plain"
    loop = "loop and HF Trainer"
    return [
        ("TRL DistillationTrainer", "online", TRL, [ARMS, "trl", str(images), str(trl)], trl / "adapter"),
        (loop, "teacher", here, [ARMS, "plain_teacher", str(images), str(plain)], None),
        (loop, "student", here, [ARMS, "plain_student", str(images), str(plain)], plain / "adapter"),
        ("SEKD", "teacher", here, pass_over, None),
        ("SEKD", "student", here, *student("first")),
        ("SEKD", "second student", here, *student("second", "loss.soft.weight=0.5")),
    ]


def hca(adapter: Path | None = None) -> float:
    """HCA in percent of joint replies in transformers, on ``TESTED`` test images; None is the base."""
    from peft import PeftModel

    from stage2_student.decode import Prompts, answer, decode_greedily, scored
    from stage2_student.encode import Encoder

    vlm = load_vlm(MODEL)
    vlm = PeftModel.from_pretrained(vlm, adapter) if adapter else vlm
    decode_greedily(vlm.get_base_model() if adapter else vlm)
    encoder = Encoder(MODEL, Path(DATA.root))
    replies, questions = [], []
    for prompts in Prompts(load_dataset(DATA, "test"), encoder, images=TESTED, batch_size=BATCH):
        replies += answer(vlm, encoder.tokenizer, prompts)
        questions += prompts.questions
    return scored(replies, questions)["hca"]
