"""The arms of ``benchmarks/online.py`` that are not ours: ``python -m benchmarks.online_arms ARM``.

TRL's arm runs in an environment of its own. All students have the same LoRA, rate, batch and images.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.loop import HfLoop
from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.datasets.images import decode
from sekd.evaluation.predict import compose
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter

DATA: DataConfig = compose("data", "demo", DataConfig)
MODEL: ModelConfig = compose("model", "tiny", ModelConfig)
BATCH, RATE = 32, 3e-3
TRAINER: dict[str, Any] = {"per_device_train_batch_size": BATCH, "learning_rate": RATE, "num_train_epochs": 1}
TRAINER |= {"bf16": False, "use_cpu": not torch.cuda.is_available(), "report_to": "none", "save_strategy": "no"}
TRAINER |= {"disable_tqdm": True, "lr_scheduler_type": "cosine", "warmup_steps": 2, "remove_unused_columns": False}


def examples(images: int) -> tuple[Dataset, list[Example]]:
    """The images that ``data.limit`` gives our own pass."""
    dataset = load_dataset(replace(DATA, limit=images), "train")
    return dataset, list(dataset.examples)


def lora() -> Any:
    from peft import LoraConfig

    from stage2_student.config import LoraSettings
    from stage2_student.model import target_pattern

    pattern = target_pattern(load_vlm(MODEL), LoraSettings().targets)
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=pattern)


def trl(images: int, folder: Path) -> None:
    """On-policy distillation: teacher and student get the same joint prompt, as TRL has it."""
    from datasets import Dataset as Rows
    from trl import DistillationConfig, DistillationTrainer

    dataset, chosen = examples(images)
    prompter, rows = Prompter.named(MODEL.wording), []
    for example in chosen:
        text = prompter.joint(dataset.questions(example)).messages[-1]["content"][-1]["text"]
        picture = decode(dataset.image_path(example))
        rows.append({"prompt": [{"role": "user", "content": text}], "image": picture})
    settings = DistillationConfig(
        str(folder), **TRAINER, beta=0.0, max_completion_length=24, gradient_checkpointing=False
    )
    student, teacher = load_vlm(MODEL), load_vlm(MODEL)
    trainer = DistillationTrainer(
        student, teacher, settings, Rows.from_list(rows), processing_class=load_processor(MODEL), peft_config=lora()
    )
    trainer.train()
    trainer.model.save_pretrained(folder / "adapter")


def plain_teacher(images: int, folder: Path) -> None:
    """Conditioned steps by a loop over transformers in batches; the answers are kept as JSON."""
    dataset, chosen = examples(images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loop, answers = HfLoop(load_vlm(MODEL).to(device), MODEL, cached=False), []
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        questions = [dataset.questions(example) for example in part]
        steps = loop.ask(questions, loop.images([decode(dataset.image_path(example)) for example in part]))
        answers += list(zip(*(step.answers for step in steps), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.json").write_text(json.dumps(answers))


def plain_student(images: int, folder: Path) -> None:
    """HF's Trainer on the joint replies with those answers."""
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    dataset, chosen = examples(images)
    answers, prompter = json.loads((folder / "answers.json").read_text()), Prompter.named(MODEL.wording)
    processor = load_processor(MODEL)
    end = processor.tokenizer.decode(prompter.end_of_turn(processor))

    def collate(rows: Sequence[int]) -> dict[str, Any]:
        texts, replies = [], []
        for row in rows:
            questions = dataset.questions(chosen[row])
            texts.append(prompter.render(processor, prompter.joint(questions)))
            replies.append(prompter.joint_answer(questions, answers[row])[0] + end)
        pictures = [decode(dataset.image_path(chosen[row])) for row in rows]
        whole = [text + reply for text, reply in zip(texts, replies, strict=True)]
        batch = processor(text=whole, images=pictures, return_tensors="pt", padding=True, padding_side="right")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for line, reply, mask in zip(labels, replies, batch["attention_mask"], strict=True):
            line[: int(mask.sum()) - len(processor.tokenizer(reply, add_special_tokens=False)["input_ids"])] = -100
        return {**batch, "labels": labels}

    model = get_peft_model(load_vlm(MODEL), lora())
    rows: Any = list(range(len(chosen)))
    Trainer(model, TrainingArguments(str(folder), **TRAINER), collate, rows).train()
    model.save_pretrained(folder / "adapter")


if __name__ == "__main__":
    arm, images, folder = sys.argv[1:]
    {"trl": trl, "plain_teacher": plain_teacher, "plain_student": plain_student}[arm](int(images), Path(folder))
