"""Lightning's trainer from this project's settings: where it runs, in which precision, what it writes down."""

import logging
import pickle
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from sekd.errors import SekdError
from stage2_student.config import FSDP, StudentConfig, TrainerConfig
from stage2_student.runs import LOGS, RunFolder

LOGGERS = ("csv", "tensorboard", "wandb")


def make_trainer(config: StudentConfig, run: RunFolder) -> Trainer:
    """All epochs are one to Lightning: the stream counts its own, and so every step can be resumed from alike."""
    settings = config.trainer
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*sync_dist=True")  # what is logged is of all ranks already
    if settings.threads:
        torch.set_num_threads(settings.threads)
    checkpoint = ModelCheckpoint(
        dirpath=run.checkpoints, filename="{step}", every_n_train_steps=settings.checkpoint_every, save_top_k=1
    )
    return Trainer(
        strategy="ddp" if settings.strategy == FSDP else settings.strategy,
        accelerator=settings.accelerator,
        devices=int(settings.devices) if settings.devices.isdigit() else settings.devices,
        num_nodes=settings.nodes,
        precision=_precision(settings),  # type: ignore[arg-type]
        max_epochs=1,
        max_steps=settings.max_steps or -1,
        accumulate_grad_batches=config.optim.accumulate,
        gradient_clip_val=config.optim.clip_norm,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=settings.strategy != FSDP,  # weights gathered in inference mode cannot be trained with
        log_every_n_steps=settings.log_every,
        logger=_loggers(config, run),
        callbacks=[checkpoint],
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        default_root_dir=str(run.path),
    )


def checked(checkpoint: Path | None) -> Path | None:
    """The same file, if it can be read and holds tensors and plain values alone: none of it is ever executed.

    Raises:
        SekdError: it is damaged or holds something else.
    """
    if checkpoint is not None:
        try:
            torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
            raise SekdError(
                f"{checkpoint} is damaged or holds more than numbers ({type(error).__name__}), and is not loaded: "
                "delete it to begin the run again"
            ) from error
    return checkpoint


def validation_interval(steps: int, times: int) -> int:
    """Batches between validations, so that there are ``times`` of them and none at the very end."""
    return steps // (times + 1) + 1 if times else steps + 1


def weights_dtype(settings: TrainerConfig) -> torch.dtype:
    """Of the frozen weights: as the precision computes, so that they are not converted at every step."""
    return torch.bfloat16 if _precision(settings).startswith("bf16") else torch.float32


def _precision(settings: TrainerConfig) -> str:
    if settings.precision in ("bf16-true", "16-true"):
        raise SekdError(
            f"trainer.precision={settings.precision} would round the adapter and the losses' weights too: "
            "take bf16-mixed, under which the frozen weights are bfloat16 as well"
        )
    if settings.precision != "auto":
        return settings.precision
    on_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu else "32-true"


def _loggers(config: StudentConfig, run: RunFolder) -> list[Logger]:
    """The loggers asked for. Every start of a run, also after an interruption, writes a version of its own."""
    if unknown := sorted(set(config.trainer.loggers) - set(LOGGERS)):
        raise SekdError(f"trainer.loggers: {unknown} unknown; choose among {', '.join(LOGGERS)}")
    made: list[Logger] = []
    if "csv" in config.trainer.loggers:
        made.append(CSVLogger(str(run.path), name=LOGS, flush_logs_every_n_steps=20))
    if "tensorboard" in config.trainer.loggers:
        made.append(TensorBoardLogger(str(run.path), name=f"{LOGS}/tensorboard"))
    if "wandb" in config.trainer.loggers:
        from lightning.pytorch.loggers import WandbLogger

        made.append(WandbLogger(name=config.name, project="sekd", save_dir=str(run.path), config=run.settings))
    return made
