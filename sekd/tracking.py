"""Experiment trackers, by one word: ``tracker=tensorboard``, ``wandb`` or ``mlflow``.

Numbers are logged while a student is trained, its plots at the end. ``make report`` adds the report's plots to the same
run of the tracker, which ``logs/tracker.json`` in the student's folder names.
"""

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.files import write_whole

# Tracker -> the modules that it needs, and the packages that have them.
TRACKERS: dict[str, dict[str, str]] = {
    "tensorboard": {},
    "wandb": {"wandb": "wandb"},
    "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
}
FILE = Path("logs", "tracker.json")


def check_tracker(word: str | None) -> None:
    """Raises ``SekdError`` for a tracker that is unknown or not installed."""
    if word is not None and word not in TRACKERS:
        raise SekdError(f"tracker={word} is unknown: choose {', '.join(TRACKERS)}")
    needed = TRACKERS[word] if word else {}
    if missing := [package for module, package in needed.items() if not find_spec(module)]:
        raise SekdError(f"tracker={word} needs {', '.join(missing)}: `uv pip install {' '.join(missing)}`")


@dataclass(frozen=True)
class Tracked:
    """A training in its tracker: ``run`` identifies it there (None: a new one), ``uri`` is MLflow's store."""

    tracker: str
    name: str
    uri: str | None = None
    run: Any = None

    @classmethod
    def new(cls, word: str, name: str, runs: Path) -> "Tracked":
        """MLflow's store is ``MLFLOW_TRACKING_URI``, or one data base for all runs."""
        local = f"sqlite:///{(runs / 'mlflow.db').resolve()}"
        return cls(word, name, os.environ.get("MLFLOW_TRACKING_URI", local) if word == "mlflow" else None)

    def logger(self, folder: Path, settings: Mapping[str, Any] | None = None) -> Any:
        """Lightning's logger. Weights & Biases reads ``WANDB_MODE`` and its other variables."""
        from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

        if self.tracker == "tensorboard":
            return TensorBoardLogger(str(folder), name="logs/tensorboard", version=self.run)
        if self.tracker == "wandb":
            resume = {"id": self.run, "resume": "allow"} if self.run else {}
            return WandbLogger(name=self.name, project="sekd", save_dir=str(folder), config=settings, **resume)
        assert self.uri
        files = str(Path(self.uri.removeprefix("sqlite:///")).parent / "mlflow") if "sqlite:" in self.uri else None
        made = MLFlowLogger("sekd", self.name, tracking_uri=self.uri, run_id=self.run, artifact_location=files)
        if settings:
            made.log_hyperparams(dict(settings))
        return made

    def end(self, logger: Any, folder: Path, images: Mapping[str, bytes]) -> None:
        """Log the plots, end the tracker's run, and remember which it was."""
        run = logger.version
        log_images(logger, images)
        write_whole(folder / FILE, json.dumps(vars(replace(self, run=run))) + "\n")


def log_images(logger: Any, images: Mapping[str, bytes]) -> None:
    """Add PNG files to a tracker's run, and end it."""
    import numpy as np
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
    from PIL import Image

    for file, content in images.items():
        name, picture = f"plots/{Path(file).stem}", Image.open(io.BytesIO(content)).convert("RGB")
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture])
        else:
            logger.experiment.log_image(logger.run_id, picture, f"{name}.png")
    logger.finalize("success")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def add_images(folder: Path, images: Callable[[], Mapping[str, bytes]]) -> None:
    """Log PNG files to the tracker of a training; nothing where it was trained without one."""
    if (folder / FILE).is_file():
        tracked = Tracked(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        check_tracker(tracked.tracker)
        log_images(tracked.logger(folder), images())
