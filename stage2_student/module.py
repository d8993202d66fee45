"""Lightning's module: the training step, the optimiser, and the logged values."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from stage2_student.batch import Batch
from stage2_student.config import FSDP, OptimConfig, StudentConfig
from stage2_student.data import Stream
from stage2_student.decode import PromptBatch, scored
from stage2_student.model import Student
from stage2_student.objective import LossResult, Objective

Sums = dict[str, tuple[float, int]]  # the sum of a value over positions, and their number


class StudentModule(LightningModule):
    """Distils the student. Checkpoints hold only the trained weights.

    Args:
        config: dropout depends only on its ``seed`` and the step's number, so that a resumed run repeats it.
        letter_ids: the letters' token ids, in letter order.
    """

    strict_loading = False

    def __init__(
        self, student: Student, objective: Objective, config: StudentConfig, *, tokenizer: Any, letter_ids: list[int]
    ) -> None:
        super().__init__()
        self.student = student
        self._objective = objective
        self._config = config
        self._tokenizer = tokenizer
        self._letter_ids = letter_ids
        self._replies: list[tuple[list[str], PromptBatch]] = []
        self._held_out: list[Sums] = []
        self._recording = False  # whether the current batch's step is logged
        self._loss = torch.tensor(math.nan)
        self._images = 0  # since the speed was last logged
        self._waited, self._since = 0.0, time.perf_counter()

    @property
    def loss(self) -> float:
        """Of the last training batch, also after resuming; NaN before the first."""
        return float(self._loss)

    def configure_model(self) -> None:
        """Shards the frozen weights if configured. DDP then ignores those, and averages the gradients as usual."""
        if self._config.trainer.strategy != FSDP or self.student.sharded:
            return
        nodes = self.trainer.num_nodes
        mesh = init_device_mesh(
            self.trainer.strategy.root_device.type,
            (nodes, self.trainer.world_size // nodes),
            mesh_dim_names=("nodes", "processes"),
        )
        self.student.shard(mesh["processes"])
        frozen = [name for name, weights in self.named_parameters() if not weights.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, frozen)

    # --- training ---

    def on_train_start(self) -> None:
        self._restart_clock()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self._config.seed, self.global_rank, batch_idx)) % 2**31)
        self._recording = (self.global_step + 1) % self._config.trainer.log_every == 0

    def training_loss(self, batch: Batch) -> LossResult:
        states = self.student(
            batch, layers=self._objective.student_layers, with_format=self._objective.config.format.weight > 0
        )
        return self._objective(states, batch, head=self.student.head, norm=self.student.norm)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self._loss = loss.total.detach()
        self.log("loss", self._loss, prog_bar=True, logger=False)
        if self._recording:
            self.log("train/loss", self._loss, sync_dist=True)
            self._record(means([sums(loss, batch, self._letter_ids)]), "train")
        return loss.total

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._images += batch.images * self.trainer.world_size
        if self._recording:
            stream, seconds = self._stream(), time.perf_counter() - self._since
            speed = {
                "images_per_second": self._images / seconds,
                "input_wait_share": (stream.waited - self._waited) / seconds,
            }
            self._record({**speed, "epoch_seen": stream.epoch}, "train")
            self._restart_clock()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clips by the total norm, which is recorded as it was before."""
        norm = torch.nn.utils.clip_grad_norm_(self._trained().values(), self._config.optim.clip_norm)
        if self._recording:
            self._record({"grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]}, "train")

    def configure_optimizers(self) -> Any:
        optim = self._config.optim
        optimizer = torch.optim.AdamW(self._trained().values(), lr=optim.lr, weight_decay=optim.weight_decay)
        # Lightning's estimate would open the stream before its position is restored.
        steps = self.trainer.datamodule.optimiser_steps(self.trainer.world_size)  # type: ignore[attr-defined]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, optim))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- validation ---

    def validation_step(self, batch: Batch | PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, PromptBatch):
            self._replies.append((self.student.answer(self._tokenizer, batch), batch))
            return
        loss = self.training_loss(batch)
        if batch.images:
            self._held_out.append(sums(loss, batch, self._letter_ids))

    def on_validation_epoch_end(self) -> None:
        of_ranks = [self._held_out]
        if self.trainer.world_size > 1:  # ranks may have different levels, so tensors cannot be reduced
            of_ranks = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(of_ranks, self._held_out)
        self._record(means([one for of_rank in of_ranks for one in of_rank]), "val")
        self._held_out.clear()
        if self._replies:
            replies = [reply for texts, _ in self._replies for reply in texts]
            questions = [asked for _, batch in self._replies for asked in batch.questions]
            self._replies.clear()
            self._record(scored(replies, questions), "val", prog_bar=("hca",))
        self._restart_clock()

    # --- checkpoints ---

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        whole = super().state_dict(*args, **kwargs)
        return {name: whole[name] for name in self._trained()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the loss, for a run that is resumed after its last step."""
        checkpoint["loss"] = self.loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._loss = torch.tensor(checkpoint["loss"])

    # --- details ---

    def _trained(self) -> dict[str, Tensor]:
        return {name: weights for name, weights in self.named_parameters() if weights.requires_grad}

    def _record(self, values: dict[str, Any], stage: str, prog_bar: tuple[str, ...] = ()) -> None:
        for name, value in values.items():
            self.log(f"{stage}/{name}", float(value), prog_bar=name in prog_bar)

    def _stream(self) -> Stream:
        return self.trainer.train_dataloader  # type: ignore[return-value]

    def _restart_clock(self) -> None:
        stream = self._stream()  # none if a student is only validated
        self._images, self._waited, self._since = 0, stream.waited if stream else 0.0, time.perf_counter()


def learning_rate_factor(step: int, steps: int, optim: OptimConfig) -> float:
    """Linear warm-up over ``warmup_steps``, and over all ``steps`` half a cosine from 1 to ``final_lr``."""
    warmup = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    cosine = (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
    return warmup * (optim.final_lr + (1 - optim.final_lr) * cosine)


@torch.no_grad()
def sums(loss: LossResult, batch: Batch, letter_ids: list[int]) -> Sums:
    """Each loss and the agreement with the teacher's answers, overall and by level.

    A level without a step in the batch is left out.
    """
    choices_N = loss.logits_NV[:, letter_ids].argmax(dim=-1)
    by_position = {**loss.terms_N, "agreement": (choices_N == batch.answers_N).float()}
    columns: dict[str, Tensor | None] = {**by_position, "format": loss.format_M, "requests": loss.requests_A}
    for index, level in enumerate(batch.level_names):
        own_N = batch.levels_N == index
        columns |= {f"{name}/{level}": column[own_N] for name, column in by_position.items()}
    found = {name: column for name, column in columns.items() if column is not None and len(column)}
    return {name: (float(column.sum()), len(column)) for name, column in found.items()}


def means(parts: Sequence[Sums]) -> dict[str, float]:
    """The mean over the positions of all parts, by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    of_name = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(total for total, _ in own) / sum(count for _, count in own) for name, own in of_name.items()}
