"""vLLM's engine: runs conversations and returns their results with hidden states and logprobs."""

import logging
import os
import queue
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.inference.pool import SILENCE_SECONDS
from sekd.inference.rendering import Prepared, Rendering
from sekd.inference.requests import StepRequest, StepResult, UnusableImageError, tail_logprob
from sekd.inference.schedule import Conversation, Scheduler
from sekd.models import ModelConfig, adapter_rank

ROWS_PER_SEQUENCE = 16  # a conversation may request a whole path at once: unread rows per admitted image


class Engine:
    """A running vLLM engine.

    Args:
        model: the model to serve.
        engine: how to run.
        layers: layers whose hidden states can be captured, ascending; none loads the engine without capture.
            Layer i is the output of the i-th decoder layer (transformers' ``hidden_states[i]``), 0 the embeddings; the
            last one is taken before the final norm.
        adapter: a LoRA adapter that answers unless ``drive`` names another one.
        max_lora_rank: highest rank of the other adapters that ``drive`` may name; 0 serves none.

    A process runs one engine at a time, since vLLM keeps its connector in a global: close one before the next.

    Raises:
        SekdError: vLLM cannot serve the model, or cannot return its hidden states.
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
        self.config, self.layers = engine, tuple(layers)
        self._adapter = adapter
        self._adapter_ids: dict[Path, int] = {}
        self._sampling: dict[tuple, Any] = {}
        self._submitted: dict[str, tuple[StepRequest, float]] = {}
        self._count = 0
        self._vllm: Any
        rank, slots = max(max_lora_rank, adapter_rank(adapter)), engine.max_num_seqs * ROWS_PER_SEQUENCE
        prepare_environment(model, engine)
        with _quiet():
            from sekd.inference.settings import build

            self._vllm, self._rows = build(model, engine, layers=self.layers, max_lora_rank=rank, slots=slots)
        Engine._running = True
        _bound_waiting(self._vllm.engine_core)
        self._rendering = Rendering(self._vllm.renderer, remembered=engine.max_num_seqs)

    @property
    def token_capacity(self) -> int:
        """Tokens that the KV cache holds."""
        return self._vllm.vllm_config.cache_config.kv_cache_size_tokens

    @property
    def device_name(self) -> str:
        """The engine's device, for provenance."""
        from vllm.platforms import current_platform

        return current_platform.get_device_name()

    def drive(
        self, conversations: Iterable[Conversation | None], *, adapter: Path | None = None
    ) -> Generator[Any, None, None]:
        """Run conversations (see ``schedule``) and yield what each returns, in the order in which they end.

        ``adapter`` names the LoRA adapter that answers them, by default the engine's own.
        """
        own, self._adapter = self._adapter, adapter or self._adapter
        try:
            most, readers = self.config.max_num_seqs, self.config.readers
            yield from Scheduler(self, conversations, concurrency=most, readers=readers).finished()
        finally:
            self._adapter = own
            self._drop_unfinished()

    def reset(self) -> None:
        """Clear the caches of prefixes and images, so that results depend only on later requests."""
        assert not self._submitted, "an engine is reset between drives"
        self._rendering.forget()
        self._vllm.reset_mm_cache()
        self._vllm.reset_encoder_cache()
        if not self._vllm.reset_prefix_cache():
            raise SekdError("the engine could not drop its prefix cache: a request is still running")

    def prepare(self, request: StepRequest, image: Image.Image) -> Prepared | Image.Image:
        """Process an image ahead of its first request, in any thread; ``submit`` takes the result.

        Raises:
            UnusableImageError: the model's processor refuses the image.
        """
        return self._rendering.prepare(request, image)

    def submit(self, request: StepRequest, image: Callable[[], Prepared | Image.Image]) -> tuple[str, int]:
        """Queue one request: its ticket and the length of its prompt in tokens. ``image`` gives its pixels.

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
        """Stop the engine and free its memory. A second call does nothing."""
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

            assert self.layers or not request.capture, "hidden states of an engine that was started with layers=[]"
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
        letters, tokenizer = set(request.letter_ids or ()), self._vllm.renderer.get_tokenizer()
        mass = {
            token: np.exp(value) for token, value in zip(ids[0].tolist(), logprobs[0], strict=True) if token in letters
        }
        return StepResult(
            token_ids=tuple(answer.token_ids),
            text="" if letters else tokenizer.decode(answer.token_ids, skip_special_tokens=True),
            topk_ids=ids[0, 1:],
            topk_logprobs=logprobs[0, 1:],
            topk_ids_by_token=ids[:, 1:],
            topk_logprobs_by_token=logprobs[:, 1:],
            tail_logprob=tail_logprob(logprobs[0, 1:]),
            letter_mass=float(sum(mass.values())),
            hidden=self._hidden(output) if request.capture else None,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
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


def _bound_waiting(core: Any) -> None:
    """Bound vLLM's wait for an engine process that hangs or was killed, which has no limit, by that of the pool."""
    outputs = getattr(core, "outputs_queue", None)
    if outputs is None:
        return  # the engine runs in this process
    wait = outputs.get

    def get() -> Any:
        until = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < until:
            with suppress(queue.Empty):
                return wait(timeout=1)
            if core.resources.engine_dead:
                raise SekdError("the engine's process was ended from outside; the same command goes on from here")
        raise SekdError(f"the engine's process was silent for {SILENCE_SECONDS:.0f} s; start the same command again")

    outputs.get = get


def _flat_logprobs(answer: Any, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and logprobs [tokens, 1 + k] of vLLM's flat list: at each token the one sampled, then the k likeliest."""
    flat, tokens = answer.logprobs, len(answer.token_ids)
    if flat is None:
        return np.full((tokens, 1), -1, np.int32), np.full((tokens, 1), -np.inf, np.float32)
    rows = np.asarray(flat.start_indices)[:, None] + np.arange(topk + 1)
    return np.asarray(flat.token_ids, np.int32)[rows], np.asarray(flat.logprobs, np.float32)[rows]


def prepare_environment(model: ModelConfig, engine: EngineConfig) -> None:
    """Set the environment variables that vLLM reads on import and at start.

    The user's own are kept, but for those that settings decide: VLLM_ENABLE_V1_MULTIPROCESSING, and OMP_NUM_THREADS on
    CPU.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if engine.in_process else "1"
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if engine.device == "cpu":
        # Without compilation no C++ compiler is needed; binding would put all workers on the same cores.
        defaults |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        os.environ["OMP_NUM_THREADS"] = str(engine.threads)
    if Path(model.path).is_dir():
        defaults["HF_HUB_OFFLINE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if engine.device == "cpu":
        import torch  # imported here because it reads the environment

        torch.set_num_threads(engine.threads)  # OMP_NUM_THREADS has no effect if torch was imported before


@contextmanager
def _quiet() -> Iterator[None]:
    """Log only errors while the engine starts."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers_logging.set_verbosity(before)
    # vLLM on CPU warns once a request that it ignores torch.set_num_threads, which costs time.
    logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
