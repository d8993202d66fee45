"""The tiny VLM's forward pass over a batch of images of one size.

transformers runs the vision tower over one ragged sequence with one attention call an image. In pretraining all images
have the same size, so the tower runs as one batch. A test compares the result with transformers.

Shape legend: B images or sequences, N image tokens, T tokens, S tokens of all sequences, P patches of an image or
positions, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Sequences:
    """Sequences of one length: tokens [B, T], an image each [B, N, H] or none, and the positions [P] to return."""

    tokens: Tensor
    images: Tensor | None
    positions: Tensor


@dataclass(frozen=True)
class BeforeLast:
    """What the last layer receives: all tokens of all sequences [S, H], their rotary angles, and the wanted rows."""

    batches: Sequence[Sequences]
    x: Tensor
    cos: Tensor
    sin: Tensor
    rows: Tensor

    def split(self, wanted: Tensor) -> list[Tensor]:
        """Values at the wanted rows -> those of each batch [B, P, ...]."""
        sizes = [(len(batch.tokens), len(batch.positions)) for batch in self.batches]
        parts = wanted.split([count * positions for count, positions in sizes])
        return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]


def decode(vlm: Any, batches: Sequence[Sequences]) -> list[Tensor]:
    """The last layer's hidden states after the norm, of each batch at its positions [B, P, H].

    All tokens pass a layer as one matrix and attend within their own sequence: a step has many small batches. The last
    layer's feed-forward block sees the wanted positions alone.
    """
    return last_layer(vlm, before_last(vlm, batches))


def before_last(vlm: Any, batches: Sequence[Sequences]) -> BeforeLast:
    """All layers but the last."""
    decoder = vlm.model.language_model
    x = torch.cat([_embed(decoder, batch).flatten(0, 1) for batch in batches])
    cos, sin = (torch.cat(each) for each in zip(*(_rotary(decoder, batch) for batch in batches), strict=True))
    wanted, start = [], 0
    for batch in batches:
        count, length = batch.tokens.shape
        wanted.append((start + length * torch.arange(count)[:, None] + batch.positions).flatten())
        start += count * length
    for layer in decoder.layers[:-1]:
        x = x + layer.self_attn.o_proj(_attend(layer.self_attn, layer.input_layernorm(x), cos, sin, batches))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return BeforeLast(batches, x, cos, sin, torch.cat(wanted))


def last_layer(vlm: Any, state: BeforeLast) -> list[Tensor]:
    """The last layer and the norm, of each batch at its positions [B, P, H]."""
    decoder = vlm.model.language_model
    layer = decoder.layers[-1]
    mixed = _attend(layer.self_attn, layer.input_layernorm(state.x), state.cos, state.sin, state.batches)
    x = state.x[state.rows] + layer.self_attn.o_proj(mixed[state.rows])
    x = x + layer.mlp(layer.post_attention_layernorm(x))
    return state.split(decoder.norm(x))


def attention_scores(vlm: Any, state: BeforeLast, head: int) -> list[Tensor]:
    """Scores of a head of the last layer from a batch's positions to its tokens [B, P, T]; -inf to later tokens."""
    layer = vlm.model.language_model.layers[-1]
    attention, x = layer.self_attn, layer.input_layernorm(state.x)
    rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    query, key = (
        _rotate(functional.linear(x, projection.weight[rows], projection.bias[rows]), state.cos, state.sin)
        for projection in (attention.q_proj, attention.k_proj)
    )
    shapes = [batch.tokens.shape for batch in state.batches]
    keys = key.split([count * length for count, length in shapes])
    scores = []
    for batch, asking, stored, shape in zip(state.batches, state.split(query[state.rows]), keys, shapes, strict=True):
        later = torch.arange(shape[1]) > batch.positions[:, None]
        product = asking @ stored.unflatten(0, shape).mT / attention.head_dim**0.5
        scores.append(product.masked_fill(later, -torch.inf))
    return scores


def _embed(decoder: Any, batch: Sequences) -> Tensor:
    x = decoder.embed_tokens(batch.tokens)
    if batch.images is None:
        return x
    after = FIRST_IMAGE_TOKEN + IMAGE_TOKENS
    return torch.cat([x[:, :FIRST_IMAGE_TOKEN], batch.images.to(x.dtype), x[:, after:]], 1)


def _rotary(decoder: Any, batch: Sequences) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles [B T, head dimension]."""
    count, length = batch.tokens.shape
    positions = torch.arange(length).expand(3, -1) if batch.images is None else _positions(length)
    cos, sin = decoder.rotary_emb(torch.zeros(1), positions[:, None])
    return cos[0].repeat(count, 1), sin[0].repeat(count, 1)


def _attend(attention: Any, x: Tensor, cos: Tensor, sin: Tensor, batches: Sequence[Sequences]) -> Tensor:
    """Causal attention within each sequence, before the output projection: [B T of all batches, H]."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight, bias = torch.cat([each.weight for each in projections]), torch.cat([each.bias for each in projections])
    qkv = functional.linear(x, weight, bias).view(len(x), 3, -1, attention.head_dim)
    qk = _rotate(qkv[:, :2], cos[:, None, None], sin[:, None, None])
    shapes = [batch.tokens.shape for batch in batches]
    sizes = [count * length for count, length in shapes]
    mixed = []
    for pair, value, shape in zip(qk.split(sizes), qkv[:, 2].split(sizes), shapes, strict=True):
        query, key = pair.unflatten(0, shape).permute(2, 0, 3, 1, 4)
        value = value.unflatten(0, shape).transpose(1, 2)
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed.append(out.transpose(1, 2).reshape(len(pair), -1))
    return torch.cat(mixed)


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
