"""Random weights under the names of the released files, such that an answer depends on the image and on the text."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sekd.models import ModelConfig
from sekd.pil_processors import use_pil_where_torchvision_is_absent
from standins.families import FAMILIES

# What transformers 5 writes for LLaVA, and what the released files call it.
LLAVA_NAMES = {
    r"^model\.language_model\.": "language_model.model.",
    r"^lm_head": "language_model.lm_head",
    r"^model\.": "",
    r"^vision_tower\.(?!vision_model)": "vision_tower.vision_model.",
}


def build(family: str, folder: Path, *, dtype: str = "float32") -> ModelConfig:
    """Write a stand-in's folder; how a configuration names it."""
    use_pil_where_torchvision_is_absent()
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True)
    FAMILIES[family](folder, dtype)
    released = {file: file.read_bytes() for file in folder.iterdir()}
    config = AutoConfig.from_pretrained(folder)
    if not family.endswith("_tied"):
        config.tie_word_embeddings = False  # not said in InternVL's released file, and true by default
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vlm = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        _scatter(vlm)
    _lean_to_letters(vlm, folder)
    vlm.to(getattr(torch, dtype)).save_pretrained(folder)
    if "llava" in family:
        _rename(folder / "model.safetensors")
    for file, content in released.items():
        file.write_bytes(content)
    return ModelConfig(name=family, path=str(folder), dtype=dtype)


@torch.no_grad()
def _scatter(vlm: Any) -> None:
    """Larger than an initialisation, which would make all answers the same."""
    for name, values in vlm.named_parameters():
        if values.ndim >= 2:
            scale = 1.0 if "embed_tokens" in name else 1.5 / values.shape[-1] ** 0.5 if values.ndim == 2 else 0.05
            values.normal_(std=scale)
        elif name.endswith("weight"):
            values.normal_(mean=1.0, std=0.1)
        elif "lambda" in name:  # InternVL's scale of a vision layer
            values.fill_(0.3)
        else:
            values.normal_(std=0.05)


@torch.no_grad()
def _lean_to_letters(vlm: Any, folder: Path) -> None:
    """Letters are likely where a prompt ends in a colon: an answer then has some mass, as in a trained model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ("Q1:", *(f"Q1: {letter}" for letter in "ABCD"))
    colon, *letters = [tokenizer.encode(text, add_special_tokens=False)[-1] for text in texts]
    head, table = vlm.get_output_embeddings().weight, vlm.get_input_embeddings().weight
    head[letters] += 0.25 * table[colon].clone()


def _rename(file: Path) -> None:
    def released(name: str) -> str:
        for pattern, replacement in LLAVA_NAMES.items():
            name = re.sub(pattern, replacement, name)
        return name

    tensors = {released(name): values.clone() for name, values in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
