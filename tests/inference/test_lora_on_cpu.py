"""The operators for LoRA on CPU, against the ones of vLLM that they stand in for."""

import pytest
import torch

from sekd.inference import plugin

IN, RANK, OUT, ADAPTERS = 12, 4, 10, 3
BATCHES = [[(0, 7)], [(2, 5), (0, 1), (2, 9)]]  # segments of (adapter, tokens)


def metadata(segments: list[tuple[int, int]]) -> tuple:
    adapters, lengths = (torch.tensor(column) for column in zip(*segments, strict=True))
    starts = lengths.cumsum(0) - lengths
    return starts, lengths, adapters, len(segments), int(lengths.max()), int(lengths.sum())


@pytest.mark.parametrize("segments", BATCHES)
def test_products_equal_those_of_the_operators_they_replace(segments: list) -> None:
    theirs = pytest.importorskip("vllm.lora.ops.torch_ops")
    torch.manual_seed(0)
    meta, tokens = metadata(segments), sum(length for _, length in segments)
    x, a, b = torch.randn(tokens, IN), torch.randn(ADAPTERS, 1, RANK, IN), torch.randn(ADAPTERS, 1, 6, RANK)
    inner = [torch.zeros(tokens, RANK + 2) for _ in range(2)]  # vLLM reserves ranks of its own sizes
    for shrink, y in zip((plugin.shrink, theirs.sgmv_shrink), inner, strict=True):
        shrink(x, a, y, *meta, 0.5)
    torch.testing.assert_close(*inner)
    for add in (True, False):
        base = torch.randn(tokens, OUT)
        outer = [base.clone() for _ in range(2)]
        for expand, y in zip((plugin.expand_slice, theirs.sgmv_expand_slice), outer, strict=True):
            expand(inner[0][:, :RANK], b, y, *meta, 3, 6, add)
        torch.testing.assert_close(*outer)
        assert not torch.equal(outer[0], base)
        assert torch.equal(outer[0][:, :3], base[:, :3])


def test_another_adapter_gives_another_product() -> None:
    torch.manual_seed(0)
    x, a = torch.randn(4, IN), torch.randn(ADAPTERS, 1, RANK, IN)
    first, second = torch.zeros(4, RANK), torch.zeros(4, RANK)
    plugin.shrink(x, a, first, *metadata([(0, 4)]), 1.0)
    plugin.shrink(x, a, second, *metadata([(0, 2), (1, 2)]), 1.0)
    torch.testing.assert_close(first[:2], second[:2])
    assert not torch.allclose(first[2:], second[2:])
