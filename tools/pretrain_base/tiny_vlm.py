"""A Qwen2.5-VL of 1.1 M parameters with a word-level tokenizer, saved as transformers and vLLM load it.

``save_random`` writes untrained weights for tests and benchmarks.
"""

from pathlib import Path
from typing import Any

import torch

from sekd.embedded.kingdoms import DEMO
from sekd.embedded.trees import World
from sekd.pil_processors import use_pil_where_torchvision_is_absent

PAD, UNKNOWN, TURN, END = "<|endoftext|>", "<|unknown|>", "<|im_start|>", "<|im_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIAL = (PAD, UNKNOWN, TURN, END, VISION_START, VISION_END, IMAGE, VIDEO)
LETTERS = "ABCD"
WORDS = ("system", "user", "assistant", "describe", "lineage")

# What the decoder of a larger world's model has, where it differs.
SIZES: dict[str, dict[str, int]] = {"forest": {"intermediate_size": 320}}
IMAGE_SIDE = 48  # pixels, after the processor's resizing
PATCH, MERGE = 8, 2
IMAGE_TOKENS = (IMAGE_SIDE // (PATCH * MERGE)) ** 2

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def numbers(world: World) -> list[str]:
    """One number a level."""
    return [str(level + 1) for level in range(len(world.levels))]


def vocabulary(world: World = DEMO) -> list[str]:
    """All tokens in the order of their ids, padded with unused ones to a multiple of 16."""
    attributes = [attribute for tree in world.trees.values() for attribute in tree.attributes]
    words = [
        *SPECIAL,
        *LETTERS,
        *numbers(world),
        *WORDS,
        *world.levels,
        *world.trees,
        *(name for name, _ in attributes),
        *(value for _, values in attributes for value in values),
        *(name for tree in world.trees.values() for level in tree.names for name in level),
    ]
    unique = list(dict.fromkeys(words))
    return unique + [f"<|unused{index}|>" for index in range(-len(unique) % 16)]


def token_ids(world: World = DEMO) -> dict[str, int]:
    return {token: index for index, token in enumerate(vocabulary(world))}


def config(world: World = DEMO, /, **text_overrides: Any) -> Any:
    """The architecture as a ``Qwen2_5_VLConfig``: 4 decoder layers of 128 or ``SIZES``, 2 vision blocks of 96."""
    from transformers import Qwen2_5_VLConfig

    ids = token_ids(world)
    text = {
        "vocab_size": len(ids),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": ids[TURN],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "tie_word_embeddings": True,
        **SIZES.get(world.name, {}),
        **text_overrides,
    }
    text.setdefault("num_key_value_heads", text["num_attention_heads"])
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": IMAGE_SIDE,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [0, 1],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        dtype="float32",
    )


def save_random(folder: Path | str, seed: int = 0, **text_overrides: Any) -> Path:
    """Write an untrained model to ``folder``. Its embeddings are scaled up so that answers are far from uniform."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    vlm: Any = Qwen2_5_VLForConditionalGeneration(config(**text_overrides))
    with torch.no_grad():
        vlm.get_input_embeddings().weight.mul_(4)
    return save(vlm, Path(folder))


def save(vlm: Any, folder: Path, *, world: World = DEMO, side: int = IMAGE_SIDE, patch: int = PATCH) -> Path:
    """Write weights, configuration, tokenizer, chat template and a processor to ``side``² pixels to ``folder``."""
    use_pil_where_torchvision_is_absent()
    from transformers import GenerationConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    ids = token_ids(world)
    vlm.generation_config = GenerationConfig(eos_token_id=ids[END], pad_token_id=ids[PAD], do_sample=False)
    vlm.save_pretrained(folder)
    tokenizer(world).save_pretrained(folder)
    sizes = {"patch_size": patch, "merge_size": MERGE, "temporal_patch_size": 2}
    Qwen2VLImageProcessorPil(size={"shortest_edge": side**2, "longest_edge": side**2}, **sizes).save_pretrained(folder)
    return folder


def tokenizer(world: World = DEMO) -> Any:
    """Splits on white space; a word outside the world's vocabulary becomes ``<|unknown|>``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(token_ids(world), unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[TURN, VISION_START, VISION_END, IMAGE, VIDEO],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )
