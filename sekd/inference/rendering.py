"""Prompts for vLLM's engine. An image is processed only with its first prompt.

All prompts about an image have the same beginning: the chat template's opening, then the image's placeholder, which
vLLM expands to the image's tokens. From the second prompt on only the text is tokenized, and the expanded beginning is
reused.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sekd.inference.requests import StepRequest, UnusableImageError


@dataclass(frozen=True)
class _Beginning:
    """The tokens up to the placeholder's end, before and after expansion, and vLLM's record of the placeholder."""

    tokenized: list[int]
    expanded: list[int]
    hashes: Mapping[str, list[str]]
    placeholders: Mapping[str, list[Any]]

    @classmethod
    def of(cls, tokens: list[int], rendered: Mapping[str, Any]) -> "_Beginning | None":
        """The beginning of ``tokens`` and of vLLM's expansion of them; None if vLLM changed more."""
        ((place,),) = rendered["mm_placeholders"].values()
        made, end = rendered["prompt_token_ids"], place.offset + place.length
        begun = len(tokens) - (len(made) - end)
        if tokens[begun:] != made[end:]:
            return None
        return cls(tokens[:begun], made[:end], rendered["mm_hashes"], rendered["mm_placeholders"])


class Rendering:
    """Renders requests.

    Args:
        renderer: vLLM's renderer, which tokenizes, processes images and caches the results.
        remembered: size of the LRU cache of beginnings: the number of images in progress.
    """

    def __init__(self, renderer: Any, *, remembered: int) -> None:
        self._renderer, self._remembered = renderer, remembered
        self._tokenization = renderer.default_cmpl_tok_params.with_kwargs(add_special_tokens=False)
        self._beginnings: OrderedDict[str, _Beginning] = OrderedDict()

    def render(self, request: StepRequest, image: Callable[[], Image.Image]) -> dict[str, Any]:
        """The request's prompt; ``image`` is called only for a new image.

        Raises:
            UnusableImageError: the model's processor refuses the image.
        """
        tokens = self._renderer.get_tokenizer().encode(request.prompt_text, add_special_tokens=False)
        return self._render_continued(request.image_key, tokens) or self._render_new(request.image_key, tokens, image)

    def forget(self) -> None:
        """Forget all images."""
        self._beginnings.clear()

    def _render_new(self, key: str, tokens: list[int], image: Callable[[], Image.Image]) -> dict[str, Any]:
        prompt = {
            "prompt_token_ids": tokens,
            "multi_modal_data": {"image": image()},
            "multi_modal_uuids": {"image": [key]},
        }
        try:
            (rendered,) = self._renderer.render_cmpl([prompt], self._tokenization)
        except ValueError as error:
            raise UnusableImageError(key, _first_cause(error)) from error
        if beginning := _Beginning.of(tokens, rendered):
            self._beginnings[key] = beginning
        if len(self._beginnings) > self._remembered:
            self._beginnings.popitem(last=False)
        return rendered

    def _render_continued(self, key: str, tokens: list[int]) -> dict[str, Any] | None:
        """A prompt about a known image; None if it is unknown, or evicted from vLLM's cache."""
        beginning, cache = self._beginnings.get(key), self._renderer.mm_processor_cache
        if beginning is None or cache is None:
            return None
        ((modality, (hashed,)),) = beginning.hashes.items()
        begun = len(beginning.tokenized)
        if tokens[:begun] != beginning.tokenized or not cache.is_cached_item(hashed):
            return None
        self._beginnings.move_to_end(key)
        item, _ = cache.get_and_update_item(None, hashed)
        return {
            "type": "multimodal",
            "prompt_token_ids": beginning.expanded + tokens[begun:],
            "mm_kwargs": {modality: [item]},
            "mm_hashes": beginning.hashes,
            "mm_placeholders": beginning.placeholders,
            "arrival_time": time.time(),
        }


def _first_cause(error: BaseException) -> str:
    """The processor's own error in one line; vLLM wraps it in one with all arguments."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
