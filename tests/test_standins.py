"""The stand-ins have the vocabulary, ids, processor and names of the released models."""

import pytest
from PIL import Image
from safetensors import safe_open
from standins import FAMILIES, Photos, Standin

from sekd.models import load_processor
from sekd.prompts import Prompter

# Placeholder of an image, its id, and the prefixes of the weights' names, as in the released folders.
RELEASED = {
    "qwen2_5_vl": ("<|image_pad|>", 151655, ("lm_head.", "model.", "visual.")),
    "qwen2_5_vl_tied": ("<|image_pad|>", 151655, ("model.", "visual.")),
    "qwen3_vl": ("<|image_pad|>", 151655, ("lm_head.", "model.language_model.", "model.visual.")),
    "qwen3_vl_tied": ("<|image_pad|>", 151655, ("model.language_model.", "model.visual.")),
    "internvl3": ("<IMG_CONTEXT>", 151667, ("language_model.", "multi_modal_projector.", "vision_tower.")),
    "internvl2_5": ("<IMG_CONTEXT>", 92546, ("language_model.", "multi_modal_projector.", "vision_tower.")),
    "llava_onevision": (
        "<image>",
        151646,
        ("image_newline", "language_model.", "multi_modal_projector.", "vision_tower.vision_model."),
    ),
    "llava1_5": ("<image>", 32000, ("language_model.", "multi_modal_projector.", "vision_tower.vision_model.")),
    "llava1_6": (
        "<image>",
        32000,
        ("image_newline", "language_model.", "multi_modal_projector.", "vision_tower.vision_model."),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_names_are_the_released_ones(standin: Standin, family: str) -> None:
    model = standin(family, "bfloat16")
    image, number, prefixes = RELEASED[family]
    assert load_processor(model).tokenizer.convert_tokens_to_ids(image) == number
    with safe_open(f"{model.path}/model.safetensors", "pt") as file:
        names = list(file.keys())
    assert all(name.startswith(prefixes) for name in names), names
    assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes), names


def test_qwen_s_letters_have_their_real_ids(standin: Standin) -> None:
    for family in ("qwen2_5_vl", "qwen3_vl", "internvl3", "llava_onevision"):
        tokenizer = load_processor(standin(family, "bfloat16")).tokenizer
        assert Prompter.named("taxonomist").letter_ids(tokenizer, 4) == [362, 425, 356, 422]


def test_every_kind_of_photo_is_there(photos: Photos) -> None:
    modes = {}
    for name, file in photos.files.items():
        with Image.open(file) as image:
            modes[name] = (image.format, image.mode, image.size)
    assert modes["grey"][1] == "L"
    assert modes["cmyk"][1] == "CMYK"
    assert modes["transparent"][:2] == ("PNG", "RGBA")
    assert modes["large"][2] == (2000, 1500)
    assert modes["low"][2] == (500, 1)
