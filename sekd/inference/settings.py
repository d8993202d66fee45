"""Build vLLM's arguments from this project's configuration. Import only after ``prepare_environment``."""

from typing import Any

import numpy as np
from vllm import EngineArgs, SamplingParams
from vllm.model_executor.models.interfaces import supports_eagle3, supports_lora
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from sekd.errors import SekdError
from sekd.inference import plugin
from sekd.inference.config import EngineConfig
from sekd.inference.connector import CAPTURE
from sekd.inference.hidden_rows import RowReader
from sekd.inference.requests import StepRequest
from sekd.machine import engine_of_this_machine, install_engine
from sekd.memory import read_size
from sekd.models import ModelConfig, image_bounds, load_processor

NUMPY_DTYPES: dict[str, np.dtype] = {
    "torch.float32": np.dtype(np.float32),
    "torch.float16": np.dtype(np.float16),
    "torch.bfloat16": np.dtype(np.uint16),  # its bits
}
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the sizes that vLLM reserves


def build(
    model: ModelConfig, engine: EngineConfig, *, layers: tuple[int, ...], max_lora_rank: int, slots: int
) -> tuple[LLMEngine, RowReader | None]:
    """A started engine and the ring of its hidden states; makes all checks before weights are loaded."""
    # The other way round works: an engine with the CPU's settings runs on a GPU, as in the tests there.
    if engine.device == "cuda" and current_platform.device_type != "cuda":
        raise SekdError(
            f"engine.device=cuda, but the vLLM that is installed runs here on "
            f"{current_platform.device_type or 'nothing'}: set engine={engine_of_this_machine()}, or install the "
            f"other build: `{install_engine()}`"
        )
    arguments = engine_arguments(model, engine, max_lora_rank=max_lora_rank)
    rows = None
    plugin.load()  # vLLM's own processes load it through the entry point
    try:
        dimensions = EngineArgs(**arguments).create_model_config()
        arguments["max_model_len"] = min(engine.max_model_len, dimensions.max_model_len)
        check_interfaces(dimensions, layers, lora=bool(max_lora_rank), name=model.name)
        if layers:
            shape = (len(layers), dimensions.get_hidden_size())
            rows = RowReader(shape=shape, dtype=NUMPY_DTYPES[str(dimensions.dtype)], slots=slots)
            arguments |= capture_arguments(layers, rows.path, slots=slots)
        if engine.device == "cpu":
            plugin.count_no_ranks()
        if engine.device == "cpu" and max_lora_rank:
            plugin.use_one_product_an_adapter()
        llm_engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
    except SekdError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise SekdError(f"model {model.name}: vLLM could not serve {model.path!r}: {_cause(error)}") from error
    # vLLM uses the same image processor as the student's stage.
    llm_engine.renderer.mm_processor.info.get_hf_processor().image_processor = load_processor(model).image_processor
    return llm_engine, rows


def _cause(error: Exception) -> str:
    """The relevant sentence of vLLM's (often pydantic's) error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if line.startswith("Value error,")), lines[0]).removeprefix("Value error, ")


def engine_arguments(model: ModelConfig, engine: EngineConfig, *, max_lora_rank: int) -> dict[str, Any]:
    """``EngineArgs`` without the capture of hidden states."""
    arguments: dict[str, Any] = {
        "model": model.path,
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "dtype": read_size(model).dtype,  # vLLM's own "auto" would turn float32 into 16 bits
        "seed": 0,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "enforce_eager": engine.eager,
        "enable_prefix_caching": engine.prefix_caching,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_cache_gb": engine.image_cache_gb,
        "mm_processor_kwargs": image_bounds(model) or None,
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if engine.block_size is not None:
        arguments["block_size"] = engine.block_size
    if engine.kv_cache_gb is not None:
        arguments["kv_cache_memory_bytes"] = int(engine.kv_cache_gb * 2**30)
    if engine.device == "cuda":
        arguments["gpu_memory_utilization"] = engine.memory_share
    if max_lora_rank:
        rank = next(rank for rank in LORA_RANKS if rank >= max_lora_rank)
        arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1, "max_cpu_loras": 8}
    return arguments


def capture_arguments(layers: tuple[int, ...], path: str, *, slots: int) -> dict[str, Any]:
    """Makes vLLM store hidden states and pass them to the connector, which writes them to the ring at ``path``."""
    return {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(layers)}},
        },
        "kv_transfer_config": {
            "kv_connector": "AnswerPositionConnector",
            "kv_connector_module_path": "sekd.inference.connector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"path": path, "slots": slots},
        },
    }


def check_interfaces(model_config: Any, layers: tuple[int, ...], *, lora: bool, name: str) -> None:
    """Refuse a model whose class in vLLM lacks an interface.

    Raises:
        SekdError: it returns no hidden states, or has no LoRA; says what to do without.
    """
    architecture, _ = model_config.registry.resolve_model_cls(model_config.architectures, model_config)
    if layers and not supports_eagle3(architecture):
        raise SekdError(
            f"model {name} ({architecture.__name__}) does not hand out hidden states in vLLM. "
            "layers=[] distils from answers and distributions alone."
        )
    if lora and not supports_lora(architecture):
        raise SekdError(
            f"model {name} ({architecture.__name__}) takes no LoRA adapter in vLLM. "
            "`make merge` writes the student as a model of its own."
        )


def sampling_params(request: StepRequest) -> SamplingParams:
    """Greedy decoding; logprobs are over the whole vocabulary, also if the answer is restricted."""
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=0.0,
        logprobs=request.topk or None,
        allowed_token_ids=list(request.letter_ids) if request.letter_ids else None,
        flat_logprobs=True,
        detokenize=False,  # vLLM's own fails at a candidate without a token: a head may have more rows than words
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={"kv_transfer_params": {CAPTURE: True}} if request.capture else None,
        skip_clone=True,  # shared by requests that differ only in their prompt; never modified
    )
