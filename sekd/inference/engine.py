"""vLLM's engine, wrapped: conversations in, their results out, hidden states and logprobs included."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sekd.errors import SekdError
from sekd.inference import environment
from sekd.inference.config import EngineConfig
from sekd.inference.rendering import Rendering
from sekd.inference.requests import StepRequest, StepResult, UnusableImageError, tail_logprob
from sekd.inference.schedule import Conversation, Drive
from sekd.models import ModelConfig

ROWS_PER_SEQUENCE = 16  # a conversation may ask for a whole path at once: rows unread per admitted image


@dataclass
class EngineStats:
    """Counts since the engine started."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class Engine:
    """A running vLLM engine.

    Args:
        model: whose weights to serve.
        engine: how to run.
        layers: layers whose hidden states can be captured, ascending; none loads the engine without capture.
            Layer i is the output of the i-th decoder layer (transformers' ``hidden_states[i]``), 0 the embeddings; the
            last one is taken before the final norm.
        adapter: a LoRA adapter that answers unless ``drive`` names another one.
        max_lora_rank: highest rank of the adapters that ``drive`` may name; 0 serves none.

    A process runs one engine at a time, since vLLM keeps its connector in a global: close one before the next.

    Raises:
        SekdError: the model cannot be served, or cannot hand out hidden states.
    """

    _running = False

    def __init__(
        self,
        model: ModelConfig,
        engine: EngineConfig,
        *,
        layers: Sequence[int] = (),
        adapter: Path | None = None,
        max_lora_rank: int = 0,
    ) -> None:
        assert not Engine._running, "this process runs an engine already: close it before another is started"
        environment.prepare(model, engine)
        self.config, self.layers = engine, tuple(layers)
        self.stats = EngineStats()
        self._adapter = adapter
        self._adapter_ids: dict[Path, int] = {}
        self._sampling: dict[tuple, Any] = {}
        self._submitted: dict[str, tuple[StepRequest, float]] = {}
        self._count = 0
        with environment.quiet():
            from sekd.inference.settings import build

            built = build(model, engine, layers=self.layers, max_lora_rank=max_lora_rank, slots=self._slots)
        Engine._running = True
        self._vllm: Any = built.llm_engine
        self._rows = built.rows
        self._rendering = Rendering(self._vllm.renderer, remembered=engine.max_num_seqs)
        self.hidden_size, self.num_layers, self.vocab_size = built.hidden_size, built.num_layers, built.vocab_size

    @property
    def _slots(self) -> int:
        return self.config.max_num_seqs * ROWS_PER_SEQUENCE

    @property
    def token_capacity(self) -> int:
        """Tokens that the KV cache holds."""
        return self._vllm.vllm_config.cache_config.kv_cache_size_tokens

    @property
    def device_name(self) -> str:
        """What the engine runs on, for provenance."""
        from vllm.platforms import current_platform

        return current_platform.get_device_name()

    def drive(
        self,
        conversations: Iterable[Conversation],
        *,
        concurrency: int | None = None,
        adapter: Path | None = None,
    ) -> Generator[Any, None, None]:
        """Run conversations (see ``schedule``) and yield what each returns, in the order in which they end.

        ``concurrency`` bounds how many are open at once, by default ``max_num_seqs``. ``adapter`` names the LoRA
        adapter that answers them, by default the engine's own.
        """
        own, self._adapter = self._adapter, adapter or self._adapter
        try:
            yield from Drive(
                self,
                conversations,
                concurrency=concurrency or self.config.max_num_seqs,
                readers=self.config.readers,
            ).finished()
        finally:
            self._adapter = own
            self._drop_unfinished()

    def reset(self) -> None:
        """Forget every prefix and image. What follows then depends on what is asked from here on alone."""
        assert not self._submitted, "an engine is reset between drives"
        self._rendering.forget()
        self._vllm.reset_mm_cache()
        self._vllm.reset_encoder_cache()
        if not self._vllm.reset_prefix_cache():
            raise SekdError("the engine could not drop its prefix cache: a request is still running")

    def submit(self, request: StepRequest, image: Callable[[], Image.Image]) -> tuple[str, int]:
        """Queue one request: its ticket and the length of its prompt in tokens. ``image`` reads its pixels.

        Raises:
            UnusableImageError: the model's processor refuses the image, or the prompt is too long with it.
        """
        rendered = self._rendering.render(request, image)
        tokens, most = len(rendered["prompt_token_ids"]), self._vllm.model_config.max_model_len
        if tokens >= most:
            raise UnusableImageError(
                request.image_key,
                f"its prompt of {tokens} tokens leaves no room for an answer in "
                f"engine.max_model_len={most}: raise that, or let an image take fewer by model.max_pixels or max_tiles",
            )
        self._count += 1
        ticket = str(self._count)
        self._vllm.add_request(ticket, rendered, self._sampling_params(request), lora_request=self._lora_request())
        self._submitted[ticket] = (request, time.perf_counter())
        return ticket, tokens

    def advance(self) -> list[tuple[str, StepResult]]:
        """One engine step: tickets that finished in it, with their results."""
        finished = []
        for output in self._vllm.step():
            if output.finished:
                request, since = self._submitted.pop(output.request_id)
                finished.append((output.request_id, self._result(output, request, since)))
        return finished

    def close(self) -> None:
        """Stop the engine and give its memory back. A second call does nothing."""
        if self._vllm is None:
            return
        self._drop_unfinished()
        self._vllm.engine_core.shutdown()
        self._vllm = None
        Engine._running = False
        if self._rows is not None:
            self._rows.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one request ---

    def _sampling_params(self, request: StepRequest) -> Any:
        key = (request.letter_ids, request.max_tokens, request.topk, request.capture)
        if key not in self._sampling:
            from sekd.inference.settings import sampling_params

            if request.capture and not self.layers:
                raise SekdError("hidden states are asked for, but the engine was started with layers=[]")
            self._sampling[key] = sampling_params(request)
        return self._sampling[key]

    def _lora_request(self) -> Any:
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        number = self._adapter_ids.setdefault(self._adapter, len(self._adapter_ids) + 1)
        return LoRARequest(f"adapter-{number}", number, str(self._adapter))

    def _result(self, output: Any, request: StepRequest, since: float) -> StepResult:
        answer = output.outputs[0]
        ids, logprobs = _flat_logprobs(answer, request.topk)
        topk = logprobs[0, 1:]
        letters = set(request.letter_ids or ())
        mass = {
            token: np.exp(value) for token, value in zip(ids[0].tolist(), logprobs[0], strict=True) if token in letters
        }
        prompt_tokens, cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
        self.stats.requests += 1
        self.stats.prompt_tokens += prompt_tokens
        self.stats.cached_tokens += cached
        self.stats.generated_tokens += len(answer.token_ids)
        return StepResult(
            token_ids=tuple(answer.token_ids),
            text=answer.text,
            topk_ids=ids[0, 1:],
            topk_logprobs=topk,
            topk_ids_by_token=ids[:, 1:],
            topk_logprobs_by_token=logprobs[:, 1:],
            tail_logprob=tail_logprob(topk),
            letter_mass=float(sum(mass.values())),
            hidden=self._hidden(output) if request.capture else None,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            latency=time.perf_counter() - since,
        )

    def _hidden(self, output: Any) -> np.ndarray:
        from sekd.inference.connector import STAMP

        assert self._rows is not None
        return self._rows.read(output.kv_transfer_params[STAMP])

    def _drop_unfinished(self) -> None:
        if self._submitted and self._vllm is not None:
            self._vllm.abort_request(list(self._submitted))
        self._submitted.clear()


def _flat_logprobs(answer: Any, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and logprobs [tokens, 1 + k] of vLLM's flat list: at each token the one sampled, then the k likeliest."""
    flat, tokens = answer.logprobs, len(answer.token_ids)
    if flat is None:
        return np.full((tokens, 1), -1, np.int32), np.full((tokens, 1), -np.inf, np.float32)
    rows = np.asarray(flat.start_indices)[:, None] + np.arange(topk + 1)
    return np.asarray(flat.token_ids, np.int32)[rows], np.asarray(flat.logprobs, np.float32)[rows]
