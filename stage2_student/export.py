"""Writes the student: a PEFT adapter that transformers and vLLM load, and a model card."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sekd.store import Store
from stage2_student.config import StudentConfig
from stage2_student.model import Student

CARD = """\
---
base_model: {model.path}
library_name: peft
tags: [lora, sekd, visual-question-answering]
---

# Student of {name}

Answers all levels of a taxonomy in a single pass, taught by its own base model in conditioned steps
(self-elicited knowledge distillation, arXiv 2511.18415).

## Lineage

| | |
|---|---|
| base model | `{model.path}` |
| data | {data.name}, split `train` as stored |
| teacher's pass | `{store.path}`, fingerprint `{store.fingerprint}` |
| losses | hard × {loss.hard.weight}, soft × {loss.soft.weight} ({loss.soft.source}, T = {loss.soft.temperature}, \
{loss.soft.divergence}), hidden × {loss.hidden.weight} ({loss.hidden.distance}, layers {loss.hidden.layers}), \
format × {loss.format.weight} |
| LoRA | rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout}, on {targets} of the language model |
| optimiser | AdamW, peak {optim.lr}, batch {optim.batch_size} × {optim.accumulate}, {optim.epochs} epochs |
| seed | {seed} |
| prompts | wording `{model.wording}` |

Every setting stands in `../config.yaml`.

## Scores at the end of training

{scores}

Greedy decoding in transformers on `{validation.split}`; `agreement` is with the teacher's answers on stored examples
held out of training, in shares of 1. The scores to report come from `make evaluate`.

## Use

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

student = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained({model.path!r}), {adapter!r})
```

In vLLM: `LLM({model.path!r}, enable_lora=True, max_lora_rank={lora.rank})` with a `LoRARequest` for this folder.
"""


def save_adapter(student: Student, weights: Mapping[str, Tensor], folder: Path, *, base: str) -> None:
    """Write the trained weights, named as in the Lightning module's state, in PEFT's format."""
    student.vlm.peft_config["default"].base_model_name_or_path = base
    named = {name.removeprefix("student.vlm."): value for name, value in weights.items()}
    student.vlm.save_pretrained(str(folder), state_dict=named, save_embedding_layers=False)


def write_card(config: StudentConfig, scores: Mapping[str, float], folder: Path, *, store: Store) -> None:
    """The adapter's ``README.md``: data, settings, scores and lineage."""
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in scores.items())
    known = {
        **vars(config),
        "store": store,
        "targets": ", ".join(config.lora.targets),
        "scores": f"| | |\n|---|---|\n{rows}" if rows else "Nothing was validated.",
        "adapter": str(folder),
    }
    (folder / "README.md").write_text(CARD.format(**known))
