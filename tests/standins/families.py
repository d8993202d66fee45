"""What the folder of each released model holds beside its weights: configuration, processor, tokenizer, template.

Names, ids, bounds and the layout are the released ones; sizes are small. ``tied`` models read and write with one
table of embeddings, as Qwen2.5-VL-3B and Qwen3-VL-2B and -4B do.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from standins import templates, vocabulary

Settings = dict[str, Any]

WIDTH, INNER, LAYERS = 64, 128, 3
ATTENTION: Settings = {"num_attention_heads": 2, "num_key_value_heads": 1}  # of 32 each
TEXT: Settings = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "use_cache": True,
    **ATTENTION,
}
QWEN_IDS: Settings = {"bos_token_id": 151643, "eos_token_id": 151645}
CLIP: Settings = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALVES: Settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
RESCALED: Settings = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True}


def qwen2_5_vl(folder: Path, dtype: str, *, tied: bool = False) -> None:
    vision = {
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": WIDTH,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **TEXT,
        **QWEN_IDS,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "max_position_embeddings": 128000,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "max_window_layers": LAYERS,
        "vision_config": vision,
        "vocab_size": 151936 if tied else 152064,
    }
    pixels = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **CLIP,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    generation = {**QWEN_IDS, "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 1e-6}
    _dump(folder, config=config, preprocessor_config=pixels, generation_config={**generation, "do_sample": True})
    _dump(folder, chat_template={"chat_template": templates.QWEN2_5_VL})
    vocabulary.write_qwen(folder, vocabulary.QWEN2_5, chat_template=templates.QWEN2_5_VL)


def qwen3_vl(folder: Path, dtype: str, *, tied: bool = False) -> None:
    text = {
        "model_type": "qwen3_vl_text",
        **TEXT,
        **QWEN_IDS,
        "attention_bias": False,
        "dtype": dtype,
        "head_dim": 32,
        "max_position_embeddings": 262144,
        "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
        "tie_word_embeddings": tied,
        "vocab_size": 151936,
    }
    vision = {
        "model_type": "qwen3_vl",
        "deepstack_visual_indexes": [0, 1, 2],
        "depth": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": WIDTH,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "num_heads": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": WIDTH,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": vision,
    }
    shared = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, **HALVES}
    shared["processor_class"] = "Qwen3VLProcessor"
    pixels = {
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        **shared,
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    video = {
        "size": {"shortest_edge": 4096, "longest_edge": 25165824},
        **shared,
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    generation = {**QWEN_IDS, "eos_token_id": [151645, 151643], "top_k": 20, "top_p": 0.8, "temperature": 0.7}
    _dump(folder, config=config, preprocessor_config=pixels, video_preprocessor_config=video)
    _dump(folder, generation_config={**generation, "do_sample": True, "repetition_penalty": 1.0})
    _dump(folder, chat_template={"chat_template": templates.QWEN3_VL})
    vocabulary.write_qwen(folder, vocabulary.QWEN3, chat_template=templates.QWEN3_VL)


def internvl(folder: Path, dtype: str, *, llama: bool = False) -> None:
    """InternVL as published for transformers: 3 over Qwen2.5; 2.5 over Qwen2.5 or, with ``llama``, over InternLM2.5."""
    text = {**TEXT, "torch_dtype": dtype, "max_position_embeddings": 32768, "rope_theta": 1000000.0}
    if llama:
        text |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 92553}
        text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "attention_bias": False}
        text |= {"rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}}
    else:
        text |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151674, **QWEN_IDS}
        text |= {"rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}}
        text |= {"max_window_layers": 70, "sliding_window": None, "use_sliding_window": False}
    vision = {
        "architectures": ["InternVisionModel"],
        "model_type": "internvl_vision",
        "attention_bias": True,
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "image_size": [448, 448],
        "initializer_range": 1e-10,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": 0.1,
        "norm_type": "layer_norm",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": [14, 14],
        "torch_dtype": dtype,
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
        "use_qk_norm": False,
    }
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "image_token_id": 92546 if llama else 151667,
        "projector_hidden_act": "gelu",
        "text_config": text,
        "torch_dtype": dtype,
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
    pixels = {
        "crop_to_patches": False,
        "do_resize": True,
        **RESCALED,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "min_patches": 1,
        "max_patches": 12,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "size": {"height": 448, "width": 448},
    }
    _dump(folder, config=config, preprocessor_config=pixels)
    _dump(folder, processor_config={"image_seq_length": 256, "processor_class": "InternVLProcessor"})
    _dump(folder, generation_config={"eos_token_id": 92542} if llama else QWEN_IDS)
    (folder / "chat_template.jinja").write_text(templates.INTERNVL)
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    named["video_token"] = "<video>"
    settings = {**named, "extra_special_tokens": named, "model_max_length": 8192, "return_token_type_ids": False}
    settings["processor_class"] = "InternVLProcessor"
    if llama:
        turns = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")
        added = {token: 92538 + index for index, token in enumerate((*turns, *vocabulary.INTERNVL))}
        vocabulary.write_llama(folder, 92538, added, prefix="never", pad_token="</s>", **settings)
    else:
        vocabulary.write_qwen(folder, (*vocabulary.QWEN2_5, *vocabulary.INTERNVL), **settings)


def llava_onevision(folder: Path, dtype: str) -> None:
    grid = [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)]
    text = {**TEXT, **QWEN_IDS, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152128}
    text |= {"max_window_layers": 28, "rope_theta": 1000000.0, "sliding_window": 131072, "torch_dtype": dtype}
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "ignore_index": -100,
        "image_grid_pinpoints": grid,
        "image_token_index": 151646,
        "video_token_index": 151647,
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_image_newline_parameter": True,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {**_tower("siglip_vision_model", 384), "vision_use_head": False},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    pixels = {
        "do_resize": True,
        "do_pad": True,
        **RESCALED,
        **HALVES,
        "image_grid_pinpoints": grid,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "size": {"height": 384, "width": 384},
    }
    video = {name: pixels[name] for name in ("do_resize", "do_rescale", "resample", "size", "processor_class")}
    video |= {**HALVES, "image_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {"image_token": "<image>", "video_token": "<video>", "num_image_tokens": 729}
    processor |= {"processor_class": "LlavaOnevisionProcessor", "vision_feature_select_strategy": "full"}
    generation = {**QWEN_IDS, "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.7}
    _dump(folder, config=config, preprocessor_config=pixels, video_preprocessor_config=video)
    _dump(folder, processor_config=processor, generation_config={**generation, "do_sample": True, "top_k": 20})
    _dump(folder, chat_template={"chat_template": templates.LLAVA_ONEVISION})
    added = (*vocabulary.QWEN2, "<image>", "<video>")
    vocabulary.write_qwen(folder, added, processor_class="LlavaOnevisionProcessor", model_max_length=32768)


def llava(folder: Path, dtype: str, *, tiles: bool = False) -> None:
    """LLaVA-1.5; with ``tiles`` LLaVA-1.6, which also looks at an image in parts."""
    name, kind = ("LlavaNext", "llava_next") if tiles else ("Llava", "llava")
    grid = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    text = {**TEXT, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32064}
    text |= {"max_position_embeddings": 4096, "pad_token_id": 32001, "torch_dtype": dtype, "rms_norm_eps": 1e-5}
    config = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": kind,
        "ignore_index": -100,
        "image_seq_length": 576,
        "image_token_index": 32000,
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "vision_config": {**_tower("clip_vision_model", 336), "projection_dim": WIDTH},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        **({"image_grid_pinpoints": grid, "use_image_newline_parameter": True} if tiles else {}),
    }
    pixels = {
        "do_resize": True,
        "do_center_crop": True,
        "crop_size": {"height": 336, "width": 336},
        **RESCALED,
        **CLIP,
        "image_processor_type": "LlavaNextImageProcessor" if tiles else "CLIPImageProcessor",
        "processor_class": f"{name}Processor",
        "resample": 3,
        "size": {"shortest_edge": 336},
        **({"image_grid_pinpoints": grid, "do_pad": True, "aspect_ratio_setting": "anyres"} if tiles else {}),
    }
    processor = {"image_token": "<image>", "patch_size": 14, "num_additional_image_tokens": 1}
    processor |= {"processor_class": f"{name}Processor", "vision_feature_select_strategy": "default"}
    _dump(folder, config=config, preprocessor_config=pixels, processor_config=processor)
    _dump(folder, generation_config={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32001})
    _dump(folder, chat_template={"chat_template": templates.LLAVA})
    added = {"<image>": 32000, "<pad>": 32001}
    own = {"pad_token": "<pad>", "add_bos_token": True, "processor_class": f"{name}Processor"}
    vocabulary.write_llama(folder, 32000, added, prefix="first", **own)


FAMILIES: dict[str, Callable[[Path, str], None]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_5_vl_tied": partial(qwen2_5_vl, tied=True),
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_tied": partial(qwen3_vl, tied=True),
    "internvl3": internvl,
    "internvl2_5": partial(internvl, llama=True),
    "llava_onevision": llava_onevision,
    "llava1_5": llava,
    "llava1_6": partial(llava, tiles=True),
}


def _tower(kind: str, side: int) -> Settings:
    return {
        "model_type": kind,
        "hidden_size": WIDTH,
        "image_size": side,
        "intermediate_size": INNER,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": 14,
    }


def _dump(folder: Path, **files: Settings) -> None:
    for name, value in files.items():
        if name == "config":
            value = {**value, "transformers_version": "4.52.0"}
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2))
