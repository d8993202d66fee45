"""The tiny VLM's forward pass over a batch of images of one size.

transformers runs the vision tower over one ragged sequence with one attention call an image. In pretraining all images
have the same size, so the tower runs as one batch. A test compares the result with transformers.

Shape legend: B images, P patches an image, N image tokens, T tokens, H hidden.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tools.pretrain_base.tiny_vlm import IMAGE_SIDE, IMAGE_TOKENS, MERGE, PATCH

GRID = IMAGE_SIDE // PATCH
FIRST_IMAGE_TOKEN = 3  # after <|im_start|>, "user" and <|vision_start|>


def pixels(images: list[Image.Image], processor: Any) -> Tensor:
    """RGB images -> the image processor's patches [B, P, values a patch]."""
    patches = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    return patches.reshape(len(images), GRID**2, -1)


def encode_images(vlm: Any, patches_BPV: Tensor) -> Tensor:
    """Patches -> image tokens [B, N, H]."""
    tower = vlm.model.visual
    batch = len(patches_BPV)
    cos, sin = _vision_rotary(tower)
    x = tower.patch_embed(patches_BPV.reshape(batch * GRID**2, -1))
    for block in tower.blocks:
        qkv = block.attn.qkv(block.norm1(x)).reshape(batch, GRID**2, 3, tower.config.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(_rotate(query, cos, sin), _rotate(key, cos, sin), value)
        x = x + block.attn.proj(mixed.transpose(1, 2).reshape(batch * GRID**2, -1))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x).reshape(batch, IMAGE_TOKENS, -1)


def decode(vlm: Any, tokens_BT: Tensor, images_BNH: Tensor | None) -> Tensor:
    """Tokens, with one image each or none -> the last layer's hidden states after the norm [B, T, H]."""
    decoder = vlm.model.language_model
    x = decoder.embed_tokens(tokens_BT)
    length = tokens_BT.shape[1]
    if images_BNH is None:
        positions = torch.arange(length).expand(3, -1)
    else:
        after = FIRST_IMAGE_TOKEN + IMAGE_TOKENS
        x = torch.cat([x[:, :FIRST_IMAGE_TOKEN], images_BNH.to(x.dtype), x[:, after:]], 1)
        positions = _positions(length)
    positions = positions[:, None].expand(3, len(tokens_BT), length)
    return decoder(inputs_embeds=x, position_ids=positions, use_cache=False).last_hidden_state


def logits(vlm: Any, hidden: Tensor) -> Tensor:
    return hidden @ vlm.lm_head.weight.T


def to_tensor(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(tokens))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _vision_rotary(tower: Any) -> tuple[Tensor, Tensor]:
    """Angles of every patch's row and column, in the order of the patches: those that are merged are adjacent."""
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    merged = [axis.reshape(GRID // MERGE, MERGE, GRID // MERGE, MERGE).permute(0, 2, 1, 3) for axis in (rows, columns)]
    positions = torch.stack([axis.reshape(-1) for axis in merged], -1)
    cos, sin = tower.rotary_pos_emb(torch.zeros(1), positions)
    return cos, sin


@lru_cache
def _positions(length: int) -> Tensor:
    """Multimodal rotary positions [3, T]: time, row and column inside the image, one counter elsewhere."""
    side = GRID // MERGE
    after = FIRST_IMAGE_TOKEN + IMAGE_TOKENS
    positions = torch.zeros(3, length, dtype=torch.long)
    positions[:, :FIRST_IMAGE_TOKEN] = torch.arange(FIRST_IMAGE_TOKEN)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = torch.stack([torch.zeros_like(rows), rows, columns]).reshape(3, -1)
    positions[:, FIRST_IMAGE_TOKEN:after] = FIRST_IMAGE_TOKEN + inside
    positions[:, after:] = FIRST_IMAGE_TOKEN + side + torch.arange(length - after)
    return positions
