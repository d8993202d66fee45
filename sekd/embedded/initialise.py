"""A head start for the tiny decoder: some attention heads begin as what they would take hundreds of steps to become.

Heads that look a fixed number of tokens back and heads that look for equal content make up the circuit that copies a
name to its letter. Large models find it early in training; here it is written into the initial weights and free to
change. Nothing about the world's names or images is in it.
"""

from typing import Any

import torch

LOOK_BACK = ((0, 0, 1), (0, 1, 2), (1, 0, 1))  # layer, head, tokens back
MATCHING_LAYERS, MATCHING_HEADS = (1, 2, 3), (1, 2)
SHARPNESS = 5.0
MATCHING_STD = 0.11
EMBEDDING_STD = 0.1
SLOWEST = 0.02  # radians a token; slower rotary frequencies cannot tell neighbours apart


@torch.no_grad()
def initialise(vlm: Any) -> None:
    """Set the embeddings' scale and the chosen heads' projections in place."""
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
