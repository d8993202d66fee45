"""Keeps what the frozen vision tower makes of an image, so that later epochs need not compute it again.

One file of bounded size beside the run, one for each process, written front to back and never read by another run: what
is where is known to this process alone, and the file is gone when the process is. An image that finds no room is
computed every time. An image is computed in the batch that it is first seen in; in another batch it would round
otherwise, so a run with a cache is repeated to rounding and no longer to the bit where it is resumed.

Shape legend: B images, P patches of all images, J values a patch, F tokens of one image, D hidden size.
"""

import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sekd.errors import SekdError

GIVEN = "mm_encoder_outputs"  # how transformers' forward takes the tower's output instead of pixels


class VisionCache:
    """The tower's output by image name.

    Args:
        folder: where the file lies.
        limit_gb: what it may hold.

    Attributes:
        written: bytes in the file.
    """

    def __init__(self, folder: Path, *, limit_gb: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as the cache
        self._limit = int(limit_gb * 1e9)
        self._places: dict[str, tuple[int, torch.Size, torch.dtype]] = {}
        self.written = 0

    def inputs(self, body: Any, inputs: dict[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
        """The batch's inputs with the tower's output in place of pixels.

        Args:
            body: a model of transformers, as ``check_takes_vision`` lets through.
            names: of the batch's images, in order.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        kept = {name: value for name, value in inputs.items() if name != "pixel_values"}
        pixels_PJ, grid = inputs["pixel_values"], inputs["image_grid_thw"]
        found = {name: self._read(name, pixels_PJ.device) for name in names if name in self._places}
        absent = [place for place, name in enumerate(names) if name not in found]
        if absent:
            pixels = pixels_PJ.split(grid.prod(dim=-1).tolist())
            with torch.no_grad():
                seen = body.get_image_features(torch.cat([pixels[place] for place in absent]), grid[absent])
            for place, tokens_FD in zip(absent, seen.pooler_output, strict=True):
                found[names[place]] = tokens_FD
                self._write(names[place], tokens_FD)
        tokens: Any = [found[name] for name in names]
        return {**kept, GIVEN: {"image": BaseModelOutputWithPooling(pooler_output=tokens)}}

    def _write(self, name: str, tokens_FD: Tensor) -> None:
        if name in self._places or self.written + tokens_FD.nbytes > self._limit:
            return
        self._file.seek(self.written)
        self._file.write(tokens_FD.contiguous().view(torch.uint8).cpu().numpy().data)
        self._places[name] = (self.written, tokens_FD.shape, tokens_FD.dtype)
        self.written += tokens_FD.nbytes

    def _read(self, name: str, device: torch.device) -> Tensor:
        offset, shape, dtype = self._places[name]
        buffer = torch.empty(shape, dtype=dtype)
        self._file.seek(offset)
        self._file.readinto(buffer.view(torch.uint8).numpy().data)
        return buffer.to(device)


def check_takes_vision(body: Any) -> None:
    """Raises ``SekdError`` where a model of transformers does not take its vision tower's output as an input."""
    if GIVEN not in inspect.signature(body.forward).parameters or not hasattr(body, "get_image_features"):
        raise SekdError(f"trainer.vision_cache_gb: {type(body).__name__} cannot be given kept images; leave it at 0")
