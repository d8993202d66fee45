"""Caches the frozen vision tower's output: within a step for several prompts about an image, and for later epochs.

For later epochs each process has one file of bounded size beside the run. No other process reads it, and it is deleted
when the process ends. An image that does not fit is computed every time. The output is from the first batch with the
image, and other batches round differently. So a resumed run with a cache equals an uninterrupted one up to rounding.

``get_image_features`` of a model shows its tower's inputs, and whether the output is a list of images or one tensor,
with or without maps of further layers.

Shape legend: B images, F tokens of one image, S maps of one image (the tokens, then deepstack's layers), D hidden size.
"""

import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sekd.errors import SekdError

GIVEN = "mm_encoder_outputs"  # the input of transformers' forward that replaces pixels by the tower's output
PIXELS = "pixel_values"
DEEP = "deepstack_features"  # Qwen3-VL: maps of earlier layers, added to the decoder's first layers


class VisionCache:
    """The tower's output by image name, for one model, in a file in ``folder`` of at most ``limit_gb``.

    Without a folder it is in the device's memory. ``written`` is the number of bytes in the file.
    """

    def __init__(self, folder: Path | None = None, *, limit_gb: float = 0.0) -> None:
        self._memory: dict[str, Tensor] | None = None if folder else {}
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as the cache
        self._limit = int(limit_gb * 1e9)
        self._places: dict[str, tuple[int, torch.Size, torch.dtype]] = {}
        self._listed = True  # whether the model's forward takes a list of images, or one tensor
        self.written = 0

    def inputs(self, body: Any, inputs: dict[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
        """The batch's inputs with the tower's output in place of pixels.

        Args:
            body: a model of transformers that passed ``check_takes_vision``.
            names: of the batch's images, in order; one a row.

        Raises:
            SekdError: the pixels cannot be split by image.
        """
        kept = {name: value for name, value in inputs.items() if name != PIXELS}
        found = dict(self._memory or {})
        found |= {name: self._read(name, inputs[PIXELS].device) for name in names if name in self._places}
        absent = [row for row, name in enumerate(names) if name not in found]
        if absent:
            tokens_B = (inputs["input_ids"] == body.config.image_token_id).sum(dim=1)
            pixels = _by_image(inputs[PIXELS], tokens_B)
            takes = inspect.signature(body.get_image_features).parameters
            others = {name: kept[name][absent] for name in takes if name in kept}
            with torch.no_grad():
                seen = body.get_image_features(torch.cat([pixels[row] for row in absent]), **others, return_dict=True)
            self._listed = not isinstance(seen.pooler_output, Tensor)
            for row, maps_SFD in zip(absent, _maps(seen, tokens_B[absent].tolist()), strict=True):
                found[names[row]] = maps_SFD
                self._write(names[row], maps_SFD)
        return {**kept, GIVEN: {"image": self._output([found[name] for name in names])}}

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

    def _write(self, name: str, maps_SFD: Tensor) -> None:
        if self._memory is not None:
            self._memory[name] = maps_SFD
            return
        if name in self._places or self.written + maps_SFD.nbytes > self._limit:
            return
        self._file.seek(self.written)
        self._file.write(maps_SFD.contiguous().view(torch.uint8).cpu().numpy().data)
        self._places[name] = (self.written, maps_SFD.shape, maps_SFD.dtype)
        self.written += maps_SFD.nbytes

    def _read(self, name: str, device: torch.device) -> Tensor:
        offset, shape, dtype = self._places[name]
        buffer = torch.empty(shape, dtype=dtype)
        self._file.seek(offset)
        self._file.readinto(buffer.view(torch.uint8).numpy().data)
        return buffer.to(device)


def _by_image(pixels: Tensor, tokens_B: Tensor) -> Sequence[Tensor]:
    """A batch's pixels, image by image. They have an entry an image, or entries of equally many tokens each, or are
    refused with a ``SekdError``."""
    if len(pixels) == len(tokens_B):
        return pixels.split(1)
    counts_B = tokens_B * len(pixels) // tokens_B.sum()
    if not torch.equal(counts_B * tokens_B.sum(), tokens_B * len(pixels)):
        raise SekdError(
            f"trainer.vision_cache_gb: {len(pixels)} entries of pixels for images of {tokens_B.tolist()} tokens cannot "
            "be told apart; leave it at 0"
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


def check_takes_vision(body: Any) -> None:
    """Raises ``SekdError`` where ``takes_vision`` is false."""
    if not takes_vision(body):
        raise SekdError(f"trainer.vision_cache_gb: {type(body).__name__} cannot be given kept images; leave it at 0")
