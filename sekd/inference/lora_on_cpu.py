"""LoRA on CPU as one matrix product an adapter.

vLLM's own CPU operators copy the adapter's matrices once a token before they multiply, which takes most of a pass of
a small model. An engine here answers with one adapter at a time, so a batch needs one product.

Shape legend: T tokens, I input size, O output size.
"""

from typing import Any

import torch
from torch import Tensor


def use_one_product_an_adapter() -> None:
    """Put the operators below in the place of vLLM's, in this process. A second call does nothing."""
    from vllm.lora.punica_wrapper import punica_cpu

    module: Any = punica_cpu
    module.sgmv_shrink, module.sgmv_expand_slice = shrink, expand_slice


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
    if add:
        target += product_TO
    else:
        target.copy_(product_TO)


def _product(
    x_TI: Tensor, stacked: Tensor, starts: Tensor, lengths: Tensor, adapters: Tensor, batches: int, *_: int
) -> Tensor:
    """The segments of a batch [segment] are neighbouring tokens of one adapter; a batch has one nearly always."""
    weights = stacked.to(x_TI.dtype).flatten(0, 1)
    parts = x_TI.split(lengths[:batches].tolist())
    return torch.cat([part @ weights[adapter].T for part, adapter in zip(parts, adapters[:batches], strict=True)])
