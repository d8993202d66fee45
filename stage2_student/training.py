"""One run, from settings to an adapter on disk."""

import logging
import os
import pickle
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from sekd.datasets import load_dataset
from sekd.errors import SekdError
from sekd.memory import read_ahead_memory, read_size, student_memory
from sekd.models import load_vlm
from sekd.prompts import Prompter
from sekd.store import Store
from sekd.tracking import TRACKERS, Tracked
from stage2_student.checks import check_letters, check_model, check_rehearsal, check_settings, check_store
from stage2_student.config import FSDP, StudentConfig, TrainerConfig
from stage2_student.data import StudentData
from stage2_student.encode import Encoder
from stage2_student.model import Student
from stage2_student.module import StudentModule
from stage2_student.objective import Objective, wants_candidates
from stage2_student.order import Run
from stage2_student.runs import LOGS, RunFolder
from stage2_student.stored import Reader, SplitView, held_out_stride

SAMPLE = 8  # stored paths from which the length of a batch is estimated
LOGGERS = ("csv", *TRACKERS)


def train(config: StudentConfig, store: Store, run: RunFolder, *, rehearsed: Store | None = None) -> dict[str, Any]:
    """Train the student of these settings, write it to the run's folder, and return its metrics.

    ``rehearsed`` is the pass whose single questions are rehearsed. Raises ``SekdError`` if settings, stores and model
    do not fit together.
    """
    begin = time.perf_counter()
    seed_everything(config.seed, verbose=False)
    module, data = assemble(config, store, rehearsed)
    loggers = _loggers(config, run)
    trainer = _make_trainer(config, run, list(loggers.values()))
    # ``times`` validations during training, and none at the end.
    steps, times = data.batches(trainer.world_size), config.validation.times
    trainer.val_check_interval = steps // (times + 1) + 1 if times else steps + 1
    with _end_children_on_exit(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=_checked(run.last_checkpoint()), weights_only=True)
        loss = module.loss
        scores = trainer.validate(module, datamodule=data, verbose=False)
    weights = trainer.strategy.lightning_module_state_dict()
    validated = {name.removeprefix("val/"): value for part in scores for name, value in part.items()}
    metrics = {
        "val": validated,
        "loss": loss,
        "steps": trainer.global_step,
        "seconds": round(time.perf_counter() - begin, 1),
        "fingerprint": store.fingerprint,
        "settings": run.digest,
    }
    if trainer.is_global_zero:
        module.student.save(weights, run.adapter, base=config.model.path)
        run.write_card(config, validated, store=store.path)
        if config.tracker:
            _end_tracker(config, run, loggers[config.tracker])
        run.finish(metrics)
    return metrics


def assemble(config: StudentConfig, store: Store, rehearsed: Store | None = None) -> tuple[StudentModule, StudentData]:
    """The module and its data, after all checks that need no training step."""
    check_settings(config)
    check_store(config, store)
    if rehearsed is not None:
        check_rehearsal(config, store, rehearsed)
    encoder = Encoder(config.model, Path(config.data.root), config.rehearsal)
    letter_ids = check_letters(Prompter.named(config.model.wording), encoder.tokenizer, store.layout)
    # Once for each pass: the dataset is read for it.
    passes = [SplitView(each, skipped=_skipped(config, each)) for each in (store, rehearsed) if each is not None]
    _estimate_memory(config, passes[0], encoder)
    vlm = load_vlm(config.model, dtype=weights_dtype(config.trainer))
    student = Student(vlm, config.lora, gradient_checkpointing=config.trainer.gradient_checkpointing).train()
    vocab_size, hidden_size = student.head.weight.shape
    check_model(config, store, n_layers=student.n_layers, vocab_size=vocab_size, hidden_size=hidden_size)
    objective = Objective(config.loss, n_layers=student.n_layers)
    module = StudentModule(student, objective, config, tokenizer=encoder.tokenizer, letter_ids=letter_ids)
    return module, StudentData(config, parts=_parts(config, objective, passes), encoder=encoder)


def _parts(config: StudentConfig, objective: Objective, passes: Sequence[SplitView]) -> list[SplitView]:
    """The paths and the rehearsed pass, if any, each with the fields that the losses need."""
    store = passes[0].store
    prefixes = store.identity.get("prefixes")
    paths = replace(
        passes[0],
        candidates=wants_candidates(config.loss),
        layers=tuple(store.layout.layers.index(layer) for layer in objective.stored_layers),
        stride=held_out_stride(config.validation, store.plan.n_examples),
        min_path_probability=config.min_path_probability,
        prefixes=Store.open(store.path.parent / prefixes) if prefixes else None,
    )
    if config.min_path_probability:
        kept, of = sum(paths.counts()), sum(replace(paths, min_path_probability=0).counts())
        if not kept:
            raise SekdError(f"min_path_probability={config.min_path_probability} leaves none of {of} images: lower it")
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{kept} of {of} images have a path of probability {config.min_path_probability} or more", flush=True)
    share = config.rehearsal.share
    rehearsed = [
        replace(paths, store=each.store, skipped=each.skipped, rehearsed=share, prefixes=None) for each in passes[1:]
    ]
    return [paths, *rehearsed]


def _skipped(config: StudentConfig, store: Store) -> frozenset[int]:
    """The dataset's numbers of the examples that a pass skipped. The store holds only their ids.

    Raises ``SekdError`` where the dataset has changed since the pass.
    """
    ids = {example for shard in range(store.plan.n_shards) for example in store.entry(shard).skipped}
    if not ids:
        return frozenset()
    asked = store.identity["data"]
    dataset = load_dataset(config.data, asked["split"])
    if dataset.identity() != asked:
        raise SekdError(
            f"{store.path} skipped {len(ids)} images, and which ones cannot be told: the dataset in {config.data.root} "
            "is not the one that the pass was made over. Put it back as it was, or run `make teacher` on what is there"
        )
    return frozenset(number for number, example in enumerate(dataset.examples) if example.id in ids)


def _estimate_memory(config: StudentConfig, part: SplitView, encoder: Encoder) -> None:
    """Print a step's estimated memory, from the length of the first stored paths, and refuse what cannot fit."""
    shard, count = next(((shard, count) for shard, count in enumerate(part.counts()) if count), (0, 0))
    if not count:
        raise SekdError(
            f"{part.store.path} holds no path: every image was left out. Lower data.stop, or repair the images"
        )
    paths = list(Reader(part, open_shards=1).read((Run(shard, 0, min(SAMPLE, count)),)))
    batch = encoder.batch(paths, images=len(paths), all_images=len(paths), world=1)
    # Of paths and of other requests: the sample's inputs, how many they are, and how many a step has.
    parts = [(batch.inputs, len(paths), config.optim.batch_size)]
    if batch.requests is not None:
        asked = min(config.rehearsal.images, config.optim.batch_size)
        parts.append((batch.requests.inputs, len(batch.requests.replies_A), asked))
    share = config.optim.batch_size / len(paths)
    trainer = config.trainer
    cuda = trainer.accelerator != "cpu" and torch.cuda.is_available()
    estimate = student_memory(
        read_size(config.model),
        dtype=str(weights_dtype(trainer)).removeprefix("torch."),
        tokens=round(sum(inputs["input_ids"].numel() / held * n for inputs, held, n in parts)),
        positions=round((len(batch.answer_positions.rows) + len(batch.format_positions.rows)) * share),
        rank=config.lora.rank,
        targets=config.lora.targets,
        dropout=config.lora.dropout > 0,
        checkpointing=trainer.gradient_checkpointing,
        cuda=cuda,
        shards=torch.cuda.device_count() if cuda and trainer.strategy == FSDP else 1,
    )
    stream, everywhere = config.stream, torch.cuda.device_count() if cuda else 1
    host = read_ahead_memory(
        sum(tensor.nbytes / held * n for inputs, held, n in parts for tensor in inputs.values())
        / config.optim.batch_size,
        buffer=min(stream.buffer, part.store.plan.n_examples),
        workers=stream.workers,
        ahead=stream.ahead,
        processes=int(trainer.devices) if trainer.devices.isdigit() else everywhere,
    )
    for each in (estimate, host) if cuda else (replace(host, parts={**estimate.parts, **host.parts}),):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(each, flush=True)
        each.check(
            "take trainer.gradient_checkpointing=true, a smaller optim.batch_size with more optim.accumulate, "
            "a smaller stream.buffer, trainer=fsdp on several cards, or a smaller model"
        )


# --- Lightning's trainer ---


def _make_trainer(config: StudentConfig, run: RunFolder, loggers: list[Logger]) -> Trainer:
    """For Lightning all epochs are one: the stream counts its own, so that a run can resume at any step."""
    settings = config.trainer
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*sync_dist=True")  # logged values are reduced over ranks already
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
        logger=loggers,
        callbacks=[checkpoint],
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        default_root_dir=str(run.path),
    )


@contextmanager
def _end_children_on_exit(trainer: Trainer) -> Iterator[None]:
    """If this process ends, end its child processes too: they would wait for its part of the next step."""
    try:
        yield
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        raise


def _checked(checkpoint: Path | None) -> Path | None:
    """The same file, if it can be read and holds only tensors and plain values; nothing in it is executed.

    Raises ``SekdError`` where it is damaged or holds something else.
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


def weights_dtype(settings: TrainerConfig) -> torch.dtype:
    """Of the frozen weights: the precision's type, so that they are not converted at every step."""
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


def _loggers(config: StudentConfig, run: RunFolder) -> dict[str, Logger]:
    """The loggers asked for. Every start of a run, also after an interruption, writes a new version."""
    wanted = dict.fromkeys([*config.trainer.loggers, *([config.tracker] if config.tracker else [])])
    if unknown := sorted(set(wanted) - set(LOGGERS)):
        raise SekdError(f"trainer.loggers: {unknown} unknown; choose among {', '.join(LOGGERS)}")
    return {
        word: CSVLogger(str(run.path), name=LOGS, flush_logs_every_n_steps=20)
        if word == "csv"
        else _tracked(config, word).logger(run.path, run.settings)
        for word in wanted
    }


def _tracked(config: StudentConfig, word: str) -> Tracked:
    return Tracked.new(word, str(config.name), Path(config.runs))


def _end_tracker(config: StudentConfig, run: RunFolder, logger: Logger) -> None:
    """Log the training's curves. Imported here, because only a tracker needs matplotlib."""
    from sekd.evaluation.report.curves import training_curves
    from sekd.evaluation.report.document import images
    from sekd.evaluation.students import STUDENT, TrainedStudent

    curves = training_curves([TrainedStudent(STUDENT, "", run.adapter)])
    _tracked(config, str(config.tracker)).end(logger, run.path, images([curves] if curves else []))
