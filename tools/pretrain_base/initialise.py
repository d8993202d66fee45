"""Initialises some attention heads of the tiny decoder as look-back and matching heads.

A head that attends a fixed number of tokens back and a head that attends to equal content together form the circuit
that copies a name to its letter. Large models form it early in training; here the initial weights contain it, and
training may change it. It contains nothing about the world's names or images.
"""

from typing import Any

import torch

LOOK_BACK = ((0, 0, 1), (0, 1, 2), (1, 0, 1))  # layer, head, tokens back
MATCHING_LAYERS, MATCHING_HEADS = (1, 2, 3), (1, 2)
SHARPNESS = 5.0
MATCHING_STD = 0.11
EMBEDDING_STD = 0.1
SLOWEST = 0.02  # radians a token; slower rotary frequencies hardly differ between neighbouring tokens


@torch.no_grad()
def initialise(vlm: Any) -> None:
    """Set the scale of the embeddings and the projections of the chosen heads, in place."""
    decoder = vlm.model.language_model
    embeddings = decoder.embed_tokens.weight
    embeddings.mul_(EMBEDDING_STD / embeddings.std())
    for layer, head, back in LOOK_BACK:
        _look_back(decoder, layer, head, back)
    for layer in MATCHING_LAYERS:
        for head in MATCHING_HEADS:
            _match_content(decoder, layer, head)


def _look_back(decoder: Any, layer: int, head: int, back: int) -> None:
    """Biases whose rotary product peaks where the key stands ``back`` tokens before the query.

    Per frequency f the score at distance d is cos(f d + query phase - key phase): the query's phase is -f back.
    """
    attention = decoder.layers[layer].self_attn
    rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    frequency = decoder.rotary_emb.inv_freq
    strength = SHARPNESS * (frequency > SLOWEST).float()
    phase = -frequency * back
    attention.k_proj.bias[rows] = torch.cat([strength, torch.zeros_like(strength)])
    attention.q_proj.bias[rows] = torch.cat([strength * phase.cos(), strength * phase.sin()])


def _match_content(decoder: Any, layer: int, head: int) -> None:
    attention = decoder.layers[layer].self_attn
    rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    shared = torch.randn(attention.head_dim, attention.q_proj.in_features) * MATCHING_STD
    attention.q_proj.weight[rows] = shared
    attention.k_proj.weight[rows] = shared
