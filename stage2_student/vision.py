"""The frozen vision tower's output, computed once a step however many prompts are about an image.

``get_image_features`` of a model shows its tower's inputs, and whether the output is a list of images or one tensor,
with or without maps of further layers.

Shape legend: B images, F tokens of one image, S maps of one image (the tokens, then deepstack's layers), D hidden size.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sekd.errors import SekdError

GIVEN = "mm_encoder_outputs"  # the input of transformers' forward that replaces pixels by the tower's output
PIXELS = "pixel_values"
DEEP = "deepstack_features"  # Qwen3-VL: maps of earlier layers, added to the decoder's first layers


class VisionCache:
    """The tower's output by image name, for one model and one step."""

    def __init__(self) -> None:
        self._maps: dict[str, Tensor] = {}  # [S, F, D] each
        self._listed = True  # whether the model's forward takes a list of images, or one tensor

    def inputs(self, body: Any, inputs: dict[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
        """The batch's inputs with the tower's output in place of pixels.

        Args:
            body: a model of transformers that ``takes_vision``.
            names: of the batch's images, in order; one a row.

        Raises:
            SekdError: the pixels cannot be split by image.
        """
        kept = {name: value for name, value in inputs.items() if name != PIXELS}
        absent = [row for row, name in enumerate(names) if name not in self._maps]
        if absent:
            tokens_B = (inputs["input_ids"] == body.config.image_token_id).sum(dim=1)
            pixels = _by_image(inputs[PIXELS], tokens_B)
            takes = inspect.signature(body.get_image_features).parameters
            others = {name: kept[name][absent] for name in takes if name in kept}
            with torch.no_grad():
                seen = body.get_image_features(torch.cat([pixels[row] for row in absent]), **others, return_dict=True)
            self._listed = not isinstance(seen.pooler_output, Tensor)
            for row, maps_SFD in zip(absent, _maps(seen, tokens_B[absent].tolist()), strict=True):
                self._maps[names[row]] = maps_SFD
        return {**kept, GIVEN: {"image": self._output([self._maps[name] for name in names])}}

    def _output(self, maps: list[Tensor]) -> Any:
        """The images' maps [S, F, D] from the model's own function."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        tokens: Any = [maps_SFD[0] for maps_SFD in maps]
        if not self._listed:
            tokens = torch.cat(tokens)
        output = BaseModelOutputWithPooling(pooler_output=tokens)
        if len(maps[0]) > 1:
            setattr(output, DEEP, [[maps_SFD[layer] for maps_SFD in maps] for layer in range(1, len(maps[0]))])
        return output


def _by_image(pixels: Tensor, tokens_B: Tensor) -> Sequence[Tensor]:
    """A batch's pixels, image by image. They have an entry an image, or entries of equally many tokens each, or are
    refused with a ``SekdError``."""
    if len(pixels) == len(tokens_B):
        return pixels.split(1)
    counts_B = tokens_B * len(pixels) // tokens_B.sum()
    if not torch.equal(counts_B * tokens_B.sum(), tokens_B * len(pixels)):
        raise SekdError(
            f"rehearsal.requests: {len(pixels)} entries of pixels for images of {tokens_B.tolist()} tokens cannot be "
            "told apart; this model can rehearse none"
        )
    return pixels.split(counts_B.tolist())


def _maps(seen: Any, tokens: list[int]) -> list[Tensor]:
    """The tower's output, image by image: [S, F, D] each."""
    layers = [seen.pooler_output, *(getattr(seen, DEEP, None) or [])]
    each = [layer.flatten(0, -2).split(tokens) if isinstance(layer, Tensor) else layer for layer in layers]
    return [torch.stack(maps) for maps in zip(*each, strict=True)]


def takes_vision(body: Any) -> bool:
    """Whether a model of transformers takes its vision tower's output as an input."""
    takes = GIVEN in inspect.signature(body.forward).parameters and hasattr(body, "get_image_features")
    return takes and hasattr(getattr(body, "config", None), "image_token_id")
