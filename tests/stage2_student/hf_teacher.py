"""A teacher's pass by transformers alone: single questions over a dataset, written through the real store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from sekd.datasets import DataConfig, Dataset, load_dataset
from sekd.datasets.images import decode
from sekd.models import ModelConfig, load_processor, load_vlm, model_identity
from sekd.prompts import Prompter
from sekd.store import Layout, Plan, Store, build_rows


def store_pass(
    root: Path,
    *,
    model: ModelConfig,
    data: DataConfig,
    k: int = 8,
    layers: Sequence[int] = (2, 4),
    shard_size: int = 16,
    paradigm: str = "conditioned",
    hidden_dtype: str = "bfloat16",
) -> Store:
    """The pass over the training split, stored under ``root``."""
    dataset = load_dataset(data, "train")
    processor, vlm, prompter = load_processor(model), load_vlm(model), Prompter.named(model.wording)
    layout = Layout(
        k=k,
        layers=tuple(layers),
        hidden_size=vlm.config.text_config.hidden_size,
        hidden_dtype=hidden_dtype,
        vocab_size=vlm.config.text_config.vocab_size,
        letter_ids=prompter.letter_ids(processor.tokenizer, 4),
    )
    identity = {
        "model": model_identity(model),
        "data": dataset.identity(),
        "prompts": prompter.identity(),
        "paradigm": paradigm,
    }
    plan = Plan(n_examples=len(dataset.examples), shard_size=shard_size)
    store = Store.create(root / data.name, identity=identity, plan=plan, layout=layout)
    asked = ask(dataset, processor, vlm, prompter, layout, paradigm)
    for shard in store.missing():
        _write(store, shard, dataset, asked)
    return store


def without(store: Store, root: Path, skipped: set[str]) -> Store:
    """The same pass under another root, as if the images of these examples could not have been read."""
    copy = Store.create(root / "demo", identity=store.identity, plan=store.plan, layout=store.layout)
    for shard in copy.missing():
        rows = store.read_targets(shard)
        keep = [sample not in skipped for sample in rows.column("sample").to_pylist()]
        gone = {sample: "unreadable image" for sample in rows.column("sample").to_pylist() if sample in skipped}
        hidden = store.hidden(shard)[:][keep] if store.layout.layers else None
        copy.write_shard(shard, rows.filter(pa.array(keep)), hidden, {}, skipped=gone)
    return copy


@torch.no_grad()
def ask(
    dataset: Dataset, processor: Any, vlm: Any, prompter: Prompter, layout: Layout, paradigm: str = "conditioned"
) -> list[dict[str, Any]]:
    """What was answered at every step: a list a step of arrays over examples. Every example has as many steps."""
    questions = [dataset.questions(example) for example in dataset.examples]
    images = [decode(dataset.image_path(example)) for example in dataset.examples]
    answers: list[list[int]] = [[] for _ in questions]
    letters = torch.tensor(layout.letter_ids)
    steps = []
    for step in range(len(questions[0])):
        texts = [
            prompter.render(processor, prompter.single(paradigm, asked, step, known))
            for asked, known in zip(questions, answers, strict=True)
        ]
        inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        logprobs, hidden = answer_position(vlm, inputs, layout.layers)
        options = [len(asked[step].options) for asked in questions]
        chosen = [int(row[:known].argmax()) for row, known in zip(logprobs[:, letters], options, strict=True)]
        for known, answer in zip(answers, chosen, strict=True):
            known.append(answer)
        top = logprobs.topk(layout.k, dim=1)
        tail = torch.log1p(-top.values.exp().sum(dim=1).clamp(max=1 - 1e-7))
        steps.append({"answer": chosen, "ids": top.indices, "logprobs": top.values, "tail": tail, "hidden": hidden})
    return steps


def answer_position(vlm: Any, inputs: Any, layers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs [B, V] and hidden states [B, R, D] at the last position; the last layer before the final norm."""
    before_norm: list[torch.Tensor] = []
    decoder = vlm.get_decoder()
    hook = decoder.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    output = vlm(**inputs, output_hidden_states=True)
    hook.remove()
    states = [*output.hidden_states[:-1], before_norm[0]]
    hidden = torch.stack([states[layer][:, -1] for layer in layers], dim=1) if layers else torch.empty(0)
    return output.logits[:, -1].log_softmax(dim=-1), hidden


def _write(store: Store, shard: int, dataset: Dataset, asked: list[dict[str, Any]]) -> None:
    rows: dict[str, list[Any]] = {name: [] for name in ("sample", "image", "step", "n_steps", "depth", "level")}
    rows |= {name: [] for name in ("options", "answer", "truth", "topk_ids", "topk_logprobs", "tail_logprob")}
    hidden = []
    for place in store.plan.examples(shard):
        example = dataset.examples[place]
        questions = dataset.questions(example)
        for step, (question, said) in enumerate(zip(questions, asked, strict=True)):
            values = {
                "sample": example.id,
                "image": str(example.image),
                "step": step,
                "n_steps": len(questions),
                "depth": question.depth,
                "level": question.level,
                "options": list(question.options),
                "answer": said["answer"][place],
                "truth": question.truth,
                "topk_ids": said["ids"][place].numpy(),
                "topk_logprobs": said["logprobs"][place].numpy(),
                "tail_logprob": float(said["tail"][place]),
            }
            for name, value in values.items():
                rows[name].append(value)
            hidden.append(said["hidden"][place].numpy() if store.layout.layers else None)
    states = np.stack(hidden) if store.layout.layers else None
    store.write_shard(shard, build_rows(store.layout, rows), states, {})
