"""Transformers' results for a prompt: the reference for the engine."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from sekd.inference.requests import StepResult
from sekd.models import ModelConfig, load_processor, load_vlm

LAYERS = (2, 4)  # what the tests' engine captures
TOLERANCE = 1e-5


def picture(number: int, side: int = 48) -> Image.Image:
    """A different image of noise for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@dataclass
class Expected:
    """At the last prompt position: the whole distribution [V]; every layer before the final norm [layers + 1, H]."""

    logprobs: np.ndarray
    hidden: np.ndarray


class Reference:
    """The model in transformers, one prompt at a time."""

    def __init__(self, model: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        self.processor = load_processor(model)
        self.vlm = load_vlm(model, dtype=dtype)
        self._last: Any = None
        language_model = self.vlm.model.language_model
        language_model.layers[-1].register_forward_hook(self._keep_last)
        self.norm, self.head = language_model.norm, self.vlm.lm_head

    def _keep_last(self, module: Any, inputs: Any, output: Any) -> None:
        self._last = output[0] if isinstance(output, tuple) else output

    @torch.no_grad()
    def __call__(self, text: str, image: Image.Image) -> Expected:
        inputs = self.processor(text=[text], images=[image], return_tensors="pt").to(self.vlm.dtype)
        output = self.vlm(**inputs, output_hidden_states=True)
        layers = [*output.hidden_states[:-1], self._last.reshape(output.hidden_states[0].shape)]
        return Expected(
            logprobs=torch.log_softmax(output.logits[0, -1].float(), -1).numpy(),
            hidden=torch.stack([layer[0, -1].float() for layer in layers]).numpy(),
        )

    @torch.no_grad()
    def distribution(self, last_layer: np.ndarray) -> np.ndarray:
        """The whole distribution [V] rebuilt from the last layer's hidden state [H]."""
        return torch.log_softmax(self.head(self.norm(torch.from_numpy(last_layer.copy()))), -1).numpy()


def assert_agrees(
    result: StepResult, expected: Expected, layers: tuple[int, ...], tolerance: float = TOLERANCE
) -> None:
    """Hidden states, logprobs and the order of the top k, each to ``tolerance`` relative."""
    assert result.hidden is not None
    assert relative_error(result.hidden, expected.hidden[list(layers)]) <= tolerance
    k = len(result.topk_ids)
    assert result.topk_ids.tolist() == np.argsort(-expected.logprobs, kind="stable")[:k].tolist()
    assert relative_error(result.topk_logprobs, expected.logprobs[result.topk_ids]) <= tolerance


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value of its row."""
    difference = np.abs(found.astype(np.float64) - expected).max(axis=-1)
    return float((difference / np.abs(expected).max(axis=-1)).max())
