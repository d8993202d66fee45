"""What a student's step costs in memory and time where logits exist at answer positions alone, against everywhere.

The model is a narrow Qwen2.5-VL with the full vocabulary of 152,064, prompts are text of two lengths. A third arm
makes no logits at all; what the other two take beyond it is the logits' own.

Shape legend: B prompts, T tokens, N answer positions, V vocabulary.
"""

import ctypes
import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import interleaved, ratio, timed
from sekd.embedded.tiny_vlm import config
from stage2_student import losses
from stage2_student.batch import Batch, Positions
from stage2_student.config import LoraSettings
from stage2_student.model import Student

VOCABULARY, PROMPTS, ANSWERS = 152_064, 2, 4
LENGTHS = (192, 768)


def measure_logits(*, rounds: int) -> dict[str, Any]:
    """Peak MB above the state before the step, and seconds, of every arm at both lengths."""
    student = narrow_student()
    arms: dict[str, Callable[[], None]] = {}
    for length in LENGTHS:
        batch = text_batch(length)
        for name, loss in (("none", _none), ("answers", _answers), ("everywhere", _everywhere)):
            arms[f"{name}, {length} tokens"] = partial(_step, student, batch, loss)
    megabytes = {name: _peak(step) for name, step in arms.items()}
    seconds = interleaved({name: timed(step) for name, step in arms.items()}, rounds=rounds)
    logits = {
        name: megabytes[name] - megabytes[f"none, {name.split(', ')[1]}"]
        for name in arms
        if not name.startswith("none")
    }
    return {
        "vocabulary": VOCABULARY,
        "prompts": PROMPTS,
        "answers": PROMPTS * ANSWERS,
        "step_mb": megabytes,
        "logits_mb": logits,
        "seconds": seconds,
        "ratios": {
            f"everywhere / answers, {length} tokens": ratio(
                seconds[f"everywhere, {length} tokens"], seconds[f"answers, {length} tokens"]
            )
            for length in LENGTHS
        },
    }


def narrow_student() -> Student:
    """Two layers of 128 under a head of 152,064."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    vlm = Qwen2_5_VLForConditionalGeneration(config(vocab_size=VOCABULARY, num_hidden_layers=2))
    return Student(vlm, LoraSettings(rank=4, alpha=4, dropout=0.0)).train()


def text_batch(length: int) -> Batch:
    """Prompts of text that end in answers."""
    generator = torch.Generator().manual_seed(length)
    ids_BT = torch.randint(1000, VOCABULARY, (PROMPTS, length), generator=generator)
    rows_N = torch.arange(PROMPTS).repeat_interleave(ANSWERS)
    places_N = (length - 2 * torch.arange(1, ANSWERS + 1)).repeat(PROMPTS)
    letters = Positions(rows_N, places_N, ids_BT[rows_N, places_N + 1])
    none = torch.empty(0)
    return Batch(
        inputs={"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)},
        letters=letters,
        others=letters,
        answers_N=none,
        levels_N=none,
        level_names=(),
        shares_N=none,
        shares_M=none,
        candidates=None,
        trust_N=None,
        hidden_NRD=None,
        images=PROMPTS,
        names=(),
    )


def _none(student: Student, batch: Batch) -> Tensor:
    return student(batch, others=False).last_ND.square().mean()


def _answers(student: Student, batch: Batch) -> Tensor:
    """As the student's step does."""
    return losses.hard(student.head(student(batch, others=False).last_ND), batch.letters.tokens).mean()


def _everywhere(student: Student, batch: Batch) -> Tensor:
    """As a model's own forward does: logits of every token, of which the answers' are taken."""
    logits_BTV = student.vlm(**batch.inputs, use_cache=False).logits
    return losses.hard(logits_BTV[batch.letters.rows, batch.letters.places], batch.letters.tokens).mean()


def _step(student: Student, batch: Batch, loss: Callable[[Student, Batch], Tensor]) -> None:
    loss(student, batch).backward()
    student.zero_grad()


def _peak(step: Callable[[], None]) -> float:
    """MB that the process held at most during a step, beyond what it held before."""
    step()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """KiB, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
