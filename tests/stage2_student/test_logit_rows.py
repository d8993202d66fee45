"""A training step makes logits at the answer tokens only: over a real vocabulary, every position would not fit."""

from typing import Any

import torch
from student_settings import Configure
from torch.utils._python_dispatch import TorchDispatchMode

from sekd.store import Store
from stage2_student.training import assemble


class LogitRows(TorchDispatchMode):
    """The most rows that any tensor [rows, vocabulary] has, the head's weights [hidden, vocabulary] left out."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self._vocabulary, self._hidden, self.most = vocabulary, hidden, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else ()
        if len(shape) > 1 and shape[-1] == self._vocabulary and shape != (self._hidden, self._vocabulary):
            self.most = max(self.most, out.numel() // self._vocabulary)
        return out


def test_a_step_makes_logits_at_the_answer_tokens_only(configure: Configure, store: Store) -> None:
    module, data = assemble(configure(), store)
    batch = next(iter(data.train_dataloader()))
    vocabulary, hidden = module.student.head.weight.shape
    answers = len(batch.answer_positions.rows) + len(batch.format_positions.rows)
    assert answers < batch.inputs["input_ids"].numel() / 2
    with LogitRows(vocabulary, hidden) as rows:
        module.training_loss(batch).total.backward()
    assert 0 < rows.most <= answers
    with LogitRows(vocabulary, hidden) as rows:
        module.student.vlm(**batch.inputs, use_cache=False)
    assert rows.most == batch.inputs["input_ids"].numel()
