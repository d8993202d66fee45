"""Prompts for vLLM's engine. An image is processed only with its first prompt, by the thread that reads it.

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

from sekd.errors import first_line
from sekd.inference.requests import StepRequest, UnusableImageError
from sekd.prompts import own_bos


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


class _Record:
    """In place of vLLM's cache while an image is processed ahead: keeps what goes into the cache when it is used."""

    entry: Any = None

    def is_cached(self, hashes: list[str]) -> list[bool]:
        return [False] * len(hashes)

    def get_and_update_item(self, entry: Any, hashed: str) -> Any:
        self.entry = entry
        return entry

    def touch_sender_cache_item(self, hashed: str) -> None: ...
    def release_sender_touches(self) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """A prompt about a new image, rendered ahead, and the entry for vLLM's cache of processed images."""

    text: str
    image: Image.Image
    tokens: list[int]
    rendered: Mapping[str, Any]
    entry: Any


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
        tokenizer = renderer.get_tokenizer()
        tokenizer.encode("A", add_special_tokens=False)  # turns off what its file may set: padding and truncation
        self._bos = own_bos(tokenizer)
        self._backend = getattr(tokenizer, "backend_tokenizer", None)

    def prepare(self, request: StepRequest, image: Image.Image) -> Prepared | Image.Image:
        """Do ahead, in any thread, what a new image needs; a known one is returned as it is.

        Raises:
            UnusableImageError: the model's processor refuses the image.
        """
        key = request.image_key
        if key in self._beginnings:
            return image
        from vllm.multimodal.parse import parse_mm_uuids
        from vllm.multimodal.processing import ProcessorInputs, TimingContext

        tokens, processor, record = self.tokenize(request.prompt_text), self._renderer.get_mm_processor(), _Record()
        try:
            items = processor.info.parse_mm_data({"image": image})
            cache: Any = record
            inputs = ProcessorInputs(tokens, items, parse_mm_uuids({"image": [key]}), cache=cache)
            rendered = processor.apply(inputs, TimingContext(enabled=False))
        except ValueError as error:
            raise UnusableImageError(key, _first_cause(error)) from error
        return Prepared(request.prompt_text, image, tokens, rendered, record.entry)

    def render(self, request: StepRequest, image: Callable[[], Prepared | Image.Image]) -> dict[str, Any]:
        """The request's prompt; ``image`` is called only for a new image.

        Raises:
            UnusableImageError: the model's processor refuses the image.
        """
        key, text = request.image_key, request.prompt_text
        tokens = self.tokenize(text) if key in self._beginnings else None
        if tokens and (rendered := self._render_continued(key, tokens)):
            return rendered
        given = image()
        if isinstance(given, Prepared) and given.text == text:
            rendered = self._render_prepared(given)
            return self._remember(key, given.tokens, rendered)
        tokens = tokens or self.tokenize(text)
        return self._remember(
            key, tokens, self._render_new(key, tokens, given.image if isinstance(given, Prepared) else given)
        )

    def tokenize(self, text: str) -> list[int]:
        """As ``encode`` of the tokenizer, without the time that transformers adds to it.

        A token of the text's beginning is added where the tokenizer does so and the chat template did not write it.
        """
        if self._backend is None:
            ids = self._renderer.get_tokenizer().encode(text, add_special_tokens=False)
        else:
            ids = self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids if not self._bos or ids[:1] == self._bos else [*self._bos, *ids]

    def forget(self) -> None:
        """Forget all images."""
        self._beginnings.clear()

    def _render_prepared(self, given: Prepared) -> dict[str, Any]:
        """Put the processed image in vLLM's cache, which leaves it out of the prompt if the engine has it."""
        cache = self._renderer.mm_processor_cache
        rendered = {**given.rendered, "arrival_time": time.time()}
        if cache is not None:
            ((modality, (hashed,)),) = given.rendered["mm_hashes"].items()
            item, _ = cache.get_and_update_item(given.entry, hashed)
            rendered["mm_kwargs"] = {modality: [item]}
        return rendered

    def _render_new(self, key: str, tokens: list[int], image: Image.Image) -> dict[str, Any]:
        prompt = {
            "prompt_token_ids": tokens,
            "multi_modal_data": {"image": image},
            "multi_modal_uuids": {"image": [key]},
        }
        try:
            (rendered,) = self._renderer.render_cmpl([prompt], self._tokenization)
        except ValueError as error:
            raise UnusableImageError(key, _first_cause(error)) from error
        return rendered

    def _remember(self, key: str, tokens: list[int], rendered: dict[str, Any]) -> dict[str, Any]:
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
    return first_line(error)
