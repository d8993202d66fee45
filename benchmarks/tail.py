"""How far the soft loss from k stored candidates and one tail bucket falls from the dense KL.

Once over a vocabulary of 152,064 with made-up distributions, peaked as a model's are at an answer; once between the
embedded base model's own conditioned and joint distributions, over its vocabulary of some hundred words.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.arms import Job
from benchmarks.online import OnlineTeacher
from sekd.datasets import load_dataset
from sekd.inference.schedule import read_image
from sekd.models import ModelConfig, load_vlm
from stage2_student import losses
from stage2_student.encode import Encoder
from stage2_student.stored import TeacherPath

KEPT = (5, 20, 32, 64)
TEMPERATURES = (1.0, 2.0)
VOCABULARY, ROWS = 152_064, 64


def measure_tail(job: Job, *, base: str, images: int) -> dict[str, Any]:
    """Mean dense KL, and the soft loss's deviation from it in percent, by temperature and k."""
    return {
        f"vocabulary {VOCABULARY:,}, made up": _bias(*_made_up()),
        "embedded base model, conditioned and joint": _bias(*_embedded(job, base, images)),
    }


def _bias(student_NV: Tensor, teacher_NV: Tensor) -> dict[str, Any]:
    """Of logits or logprobs."""
    teacher_NV = teacher_NV.log_softmax(-1)
    found = {}
    for temperature in TEMPERATURES:
        everything = losses.soft(
            student_NV,
            torch.arange(teacher_NV.shape[1]).expand_as(teacher_NV),
            teacher_NV,
            torch.zeros(len(teacher_NV)),
            temperature=temperature,
        ).mean()
        found[f"T = {temperature:g}"] = {
            "dense": float(everything),
            "bias_percent": {
                k: float(100 * (_kept(student_NV, teacher_NV, k, temperature) / everything - 1)) for k in KEPT
            },
        }
    return found


def _kept(student_NV: Tensor, teacher_NV: Tensor, k: int, temperature: float) -> Tensor:
    top = teacher_NV.topk(k)
    tail_N = torch.log1p(-top.values.double().exp().sum(-1).clamp(max=1 - 1e-12)).float()
    return losses.soft(student_NV, top.indices, top.values, tail_N, temperature=temperature).mean()


def _made_up() -> tuple[Tensor, Tensor]:
    """Four letters carry most of the mass, the rest falls off as a language model's does; the student errs by noise."""
    generator = torch.Generator().manual_seed(0)
    teacher_NV = torch.randn(ROWS, VOCABULARY, generator=generator) * 2
    teacher_NV[:, :4] += 18 + 2 * torch.randn(ROWS, 4, generator=generator)
    return teacher_NV + torch.randn(ROWS, VOCABULARY, generator=generator), teacher_NV


@torch.no_grad()
def _embedded(job: Job, base: str, images: int) -> tuple[Tensor, Tensor]:
    model = ModelConfig(**{**job.model.__dict__, "path": base})
    vlm = load_vlm(model, dtype=torch.float32)
    dataset = load_dataset(job.data, "train")
    examples = dataset.examples[:images]
    questions = [dataset.questions(example) for example in examples]
    teacher = OnlineTeacher(vlm, model, cached=True)
    steps = teacher.ask(questions, teacher.images([read_image(dataset.image_path(one)) for one in examples]))
    paths = [
        TeacherPath(str(example.image), asked, tuple(step.answers[place] for step in steps), None, None)
        for place, (example, asked) in enumerate(zip(examples, questions, strict=True))
    ]
    encoder = Encoder(model, dataset.root)
    batch = encoder.batch(paths, images=len(paths), all_images=len(paths), world=1)
    logits_BTV = vlm(**batch.inputs).logits
    student_NV = F.log_softmax(logits_BTV[batch.letters.rows, batch.letters.places], -1)
    teacher_NV = torch.stack([step.logprobs_BV for step in steps], 1).flatten(0, 1)
    return student_NV, teacher_NV
