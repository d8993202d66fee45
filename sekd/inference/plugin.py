"""This project's changes of vLLM. ``load`` runs in each of vLLM's processes before it loads a model, by the entry point
``vllm.general_plugins``.

Shape legend: T tokens, I input size, O output size.
"""

import multiprocessing
import os
import threading
from typing import Any

import torch
from torch import Tensor

from sekd.pil_processors import use_pil_where_torchvision_is_absent

# Architectures for which ``served_models`` has a class with more interfaces than vLLM's.
SERVED_MODELS = {
    "InternVLForConditionalGeneration": "InternVL",
    "LlavaNextForConditionalGeneration": "LlavaNext",
    "LlavaOnevisionForConditionalGeneration": "LlavaOnevision",
}
ENGINE_CORE = "EngineCore"  # vLLM's name of the process that runs an engine's core
WATCHER = "ends-with-parent"


def load() -> None:
    """Make processors load without torchvision, register the classes of ``served_models``, and let an engine's
    processes end with their parent. May be called again."""
    use_pil_where_torchvision_is_absent()
    if multiprocessing.current_process().name.startswith(ENGINE_CORE):
        end_with_parent()
    from vllm import ModelRegistry

    for architecture, name in SERVED_MODELS.items():
        ModelRegistry.register_model(architecture, f"sekd.inference.served_models:{name}")


def end_with_parent() -> None:
    """End this process when its parent ends.

    An engine's core does not do that: it would wait for requests for ever and keep the GPU's memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == WATCHER for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name=WATCHER, daemon=True).start()


def use_one_product_an_adapter() -> None:
    """Compute LoRA on CPU as one matrix product an adapter, in this process.

    vLLM's own CPU operators copy the adapter's matrices once a token before they multiply, which takes most of a pass
    of a small model. An engine here uses one adapter at a time, so a batch needs one product.
    """
    from vllm.lora.punica_wrapper import punica_cpu

    module: Any = punica_cpu
    module.sgmv_shrink, module.sgmv_expand_slice = shrink, expand_slice


def count_no_ranks() -> None:
    """Leave out the rank of each sampled token, which nothing here reads, in this process.

    Uncompiled, vLLM compares the whole vocabulary for it, at every token.
    """
    from vllm.v1.sample import sampler

    module: Any = sampler
    module.batched_count_greater_than = lambda x, values: torch.ones(len(x), dtype=torch.int64)


def shrink(x_TI: Tensor, stacked: Tensor, y: Tensor, *lengths_and_scale: Any) -> None:
    """``y[:, :O] = scale · x · Wᵀ`` with each token's adapter W [adapters, 1, O, I]."""
    *meta, scale = lengths_and_scale
    product_TO = _product(x_TI.to(y.dtype), stacked, *meta)
    y[:, : product_TO.shape[1]] = scale * product_TO


def expand_slice(x_TI: Tensor, stacked: Tensor, y: Tensor, *lengths_and_slice: Any) -> None:
    """``y[:, offset : offset + size] (+)= x · Wᵀ`` with each token's adapter W [adapters, 1, O, I]."""
    *meta, offset, size, add = lengths_and_slice
    product_TO = _product(x_TI.to(y.dtype), stacked, *meta)
    target = y[: len(product_TO), offset : offset + size]
    target.copy_(target + product_TO if add else product_TO)


def _product(
    x_TI: Tensor, stacked: Tensor, starts: Tensor, lengths: Tensor, adapters: Tensor, batches: int, *_: int
) -> Tensor:
    """The segments of a batch [segment] are consecutive tokens of one adapter; a batch nearly always has one."""
    weights = stacked.to(x_TI.dtype).flatten(0, 1)
    parts = x_TI.split(lengths[:batches].tolist())
    return torch.cat([part @ weights[adapter].T for part, adapter in zip(parts, adapters[:batches], strict=True)])
