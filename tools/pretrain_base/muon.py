"""The Muon optimizer in fp32: orthogonalised momentum updates, matrices of one shape as one batch.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). ``torch.optim.Muon`` updates
one matrix at a time in bf16, which most CPUs emulate. With a hundred small matrices that takes most of a step.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

# Coefficients of the quintic Newton-Schulz iteration: steep at zero, near 1 over the whole range of singular values.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For the matrices of hidden layers; embeddings, biases and norms need another optimizer."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        iterations: int = 4,
    ) -> None:
        super().__init__(matrices, {"lr": lr})
        self.momentum, self.weight_decay, self.iterations = momentum, weight_decay, iterations

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Apply one update to every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[tuple(sorted(matrix.shape))].append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, group["lr"])

    def _update(self, matrices: list[Tensor], lr: float) -> None:
        nesterov = [self._direction(matrix) for matrix in matrices]
        wide = torch.stack([update.T if update.shape[0] > update.shape[1] else update for update in nesterov])
        for matrix, update in zip(matrices, orthogonalise(wide, self.iterations), strict=True):
            rows, columns = matrix.shape
            oriented = update.T if rows > columns else update
            matrix.mul_(1 - lr * self.weight_decay).add_(oriented, alpha=-lr * max(1, rows / columns) ** 0.5)

    def _direction(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        assert matrix.grad is not None
        if "average" not in state:
            state["average"] = torch.zeros_like(matrix)
        state["average"].lerp_(matrix.grad, 1 - self.momentum)
        return matrix.grad.lerp(state["average"], self.momentum)


def orthogonalise(wide: Tensor, iterations: int) -> Tensor:
    """Move the singular values of a batch [n, rows, columns >= rows] towards 1; singular vectors stay."""
    a, b, c = QUINTIC
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
