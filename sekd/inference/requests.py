"""The engine's requests and results."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


class UnreadableImageError(Exception):
    """Raised inside a conversation whose image cannot be read. ``reason`` does not contain the path."""

    kind = "unreadable image"

    def __init__(self, name: Path | str, why: Exception | str) -> None:
        super().__init__(name, why)  # both, so that another process can build the same error
        self.reason = f"{self.kind}: {type(why).__name__ if isinstance(why, Exception) else why}"

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


class UnusableImageError(UnreadableImageError):
    """An image that the model's processor refuses, or that has too many tokens."""

    kind = "unusable image"


@dataclass(frozen=True)
class StepRequest:
    """One prompt about one image.

    Attributes:
        prompt_text: the rendered chat template with the model's image placeholder.
        image: a file, read ahead of the engine, or an image in memory.
        image_key: identifies the image's content: requests with the same key share its processing and cached prefix.
        letter_ids: restricts the answer to one of these tokens; None generates freely.
        max_tokens: most tokens to generate.
        topk: how many of each generated token's most likely alternatives to report, over the whole vocabulary.
        capture: return the hidden states of the prompt's last position, whose logits predict the first token.
    """

    prompt_text: str
    image: Path | Image.Image
    image_key: str
    letter_ids: tuple[int, ...] | None = None
    max_tokens: int = 1
    topk: int = 0
    capture: bool = False


@dataclass(frozen=True)
class StepResult:
    """The engine's answer to one request.

    Attributes:
        token_ids: generated token ids.
        text: their text; empty where ``letter_ids`` restricted the answer.
        topk_ids: int32 [k], the most likely first tokens, unrestricted, most likely first.
        topk_logprobs: float32 [k], their natural-log probabilities over the whole vocabulary.
        topk_ids_by_token, topk_logprobs_by_token: the same for every generated token, [tokens, k]; row 0 is the first.
        tail_logprob: log of the probability mass outside the k; -inf where there is none.
        letter_mass: probability of ``letter_ids`` together, as far as the top k and the answer contain them.
        hidden: [layers, hidden] in the engine's dtype (bfloat16 as its bits in uint16), or None.
        prompt_tokens, cached_tokens: the prompt's length, and its part found in the KV cache.
        latency: seconds from submission to result.
    """

    token_ids: tuple[int, ...]
    text: str
    topk_ids: np.ndarray
    topk_logprobs: np.ndarray
    topk_ids_by_token: np.ndarray
    topk_logprobs_by_token: np.ndarray
    tail_logprob: float
    letter_mass: float
    hidden: np.ndarray | None
    prompt_tokens: int
    cached_tokens: int
    latency: float


def tail_logprob(topk_logprobs: np.ndarray) -> float:
    """Log of the probability mass outside the top k, summed in float64; -inf where rounding leaves none.

    The loss decides how small a mass it ignores.
    """
    outside = 1.0 - np.exp(topk_logprobs.astype(np.float64)).sum()
    return float(np.log(outside)) if outside > 0 else -math.inf
