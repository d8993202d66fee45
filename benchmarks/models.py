"""The two models that are measured: the embedded one, and one of about 30 M parameters with images of 224 pixels."""

from pathlib import Path
from typing import Any

import torch

from sekd.embedded.tiny_vlm import config, save, save_random
from sekd.pil_processors import use_pil_where_torchvision_is_absent

SIDE, PATCH, MERGE = 224, 14, 2
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
}
VISION = {
    "depth": 6,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "window_size": 112,
    "fullatt_block_indexes": [2, 5],
}


def embedded(folder: Path) -> Path:
    """The embedded architecture with random weights: speed does not depend on what a model knows."""
    return save_random(folder)


def thirty_million(folder: Path) -> Path:
    """A Qwen2.5-VL of 30 M parameters with random weights, images of 224 × 224 pixels and 64 tokens each."""
    use_pil_where_torchvision_is_absent()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(0)
    sizes = config(**TEXT).to_dict()
    sizes["vision_config"] |= {**VISION, "out_hidden_size": TEXT["hidden_size"]}
    vlm: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(sizes))
    save(vlm, folder)
    Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": SIDE**2, "longest_edge": SIDE**2},
    ).save_pretrained(folder)
    return folder


MODELS = {"embedded, 1.1 M": embedded, "30 M, 224 px": thirty_million}
