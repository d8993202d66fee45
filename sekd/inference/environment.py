"""What has to be said to vLLM and torch before they are imported."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig


def prepare(model: ModelConfig, engine: EngineConfig) -> None:
    """Set the environment variables that vLLM reads on import and at start. What the user has set himself stays."""
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
    if engine.batch_invariant:
        defaults["VLLM_BATCH_INVARIANT"] = "1"
    if Path(model.path).is_dir():
        defaults["HF_HUB_OFFLINE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if engine.device == "cpu":
        import torch  # only now: it reads the environment, too

        torch.set_num_threads(engine.threads)  # OMP_NUM_THREADS came too late where torch was imported before


@contextmanager
def quiet() -> Iterator[None]:
    """While the engine starts: hear errors, not the many remarks that no user of this project can act on."""
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
