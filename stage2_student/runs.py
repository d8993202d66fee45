"""The folder of a run: its name, its files, and whether it holds a run of given settings.

runs/<name>/config.yaml     every setting, resolved, and the store's fingerprint
runs/<name>/adapter/        the student, with a model card; written when training has ended
runs/<name>/metrics.json    final metrics; written last, so a folder with it holds a complete run
runs/<name>/logs/           Lightning's CSV and TensorBoard logs
runs/<name>/checkpoints/    the state from which an interrupted run resumes
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sekd.errors import SekdError
from sekd.files import write_whole
from sekd.machine import default_model
from sekd.recent import CONFIG, flat, read_settings
from stage2_student.config import StudentConfig

CARD = Path(__file__).with_name("model_card.md")
METRICS, ADAPTER, LOGS, CHECKPOINTS = "metrics.json", "adapter", "logs", "checkpoints"

# Settings that change neither training nor validation; the last is one of earlier runs.
INCIDENTAL = {
    "": ("name", "runs", "artifacts", "store", "force", "tracker"),
    "stream": ("workers", "ahead"),
    "rehearsal": ("store",),
    "trainer": ("name", "loggers", "log_every", "checkpoint_every", "progress", "vision_cache_gb"),
}
# Overrides that a run's name leaves out: it has the dataset and the seed in fixed places; the others are paths.
NAMED_APART = ("data", "model", "seed", *INCIDENTAL[""], "data.root", "model.path")
GROUPS = ("loss", "paradigm", "trainer", "recipe")  # config groups, named by their choice
DEFAULTS = {"loss": "all", "paradigm": "conditioned"}  # left out of the name
DESCENT = ("questions", "beam", "stop")  # settings of data without labels


@dataclass
class RunFolder:
    path: Path
    settings: dict[str, Any]

    @classmethod
    def of(cls, config: StudentConfig, *, fingerprint: str, rehearsed: str | None = None) -> "RunFolder":
        """The folder of a run that is distilled from the store of this fingerprint and rehearses that of another."""
        assert config.name is not None, "the entry names every run"
        settings = {**asdict(config), "fingerprint": fingerprint}
        settings["rehearsal"]["fingerprint"] = rehearsed
        return cls(Path(config.runs) / config.name, settings)

    def __post_init__(self) -> None:
        self.adapter, self.checkpoints = self.path / ADAPTER, self.path / CHECKPOINTS
        self.digest = digest(self.settings)

    def metrics(self) -> dict[str, Any] | None:
        """The final metrics; None for an unfinished run."""
        file = self.path / METRICS
        return json.loads(file.read_text()) if file.exists() else None

    def prepare(self, *, force: bool) -> bool:
        """Prepare the folder for these settings; False if it holds their complete run.

        An interrupted run of the same settings is kept, to resume from its checkpoint. ``force`` starts again.

        Raises:
            SekdError: the folder holds a run of other settings, complete or with a checkpoint.
        """
        there = read_settings(self.path)
        same, whole = bool(there) and digest(there) == self.digest, self.metrics() is not None
        if there and not force:
            if same and whole:
                return False
            if not same and (whole or self.last_checkpoint()):
                kind = "a run" if whole else "an interrupted run"
                raise SekdError(
                    f"{self.path} holds {kind} with other settings ({_differences(there, self.settings)}): "
                    "give this one another name=…, or force=true to replace that one"
                )
        if there and (force or not same):  # other runs may be in folders below
            for name in (METRICS, "general.json"):  # a later `make general` would keep the former student's tasks
                (self.path / name).unlink(missing_ok=True)
            for name in (ADAPTER, LOGS, CHECKPOINTS):
                shutil.rmtree(self.path / name, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / CONFIG, yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True))
        return True

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics, which completes the run, then delete its checkpoints."""
        write_whole(self.path / METRICS, json.dumps(metrics, indent=2) + "\n")
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def write_card(self, config: StudentConfig, scores: Mapping[str, float], *, store: Path) -> None:
        """The adapter's ``README.md``: data, settings, scores and lineage."""
        rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in scores.items())
        known = {
            **vars(config),
            "store": store,
            "targets": ", ".join(config.lora.targets),
            "scores": f"| | |\n|---|---|\n{rows}" if rows else "Nothing was validated.",
            "adapter": str(self.adapter),
        }
        (self.adapter / "README.md").write_text(CARD.read_text(encoding="utf-8").format(**known), encoding="utf-8")

    def last_checkpoint(self) -> Path | None:
        files = self.checkpoints.glob("*.ckpt")
        return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)


def digest(settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits, equal for two runs if and only if their essential settings are.

    Later settings are left out at the value that was the rule before them.
    """
    kept = essential(settings)
    if not kept.get("min_path_probability"):
        kept.pop("min_path_probability", None)
    rehearsal = kept.get("rehearsal", {})
    if rehearsal.get("weight") == 1:
        kept["rehearsal"] = {name: value for name, value in rehearsal.items() if name != "weight"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def essential(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that change nothing."""
    kept = {name: value for name, value in settings.items() if name not in INCIDENTAL[""]}
    if kept.get("data", {}).get("questions") == "labels":
        kept["data"] = {name: value for name, value in kept["data"].items() if name not in DESCENT}
    for group in INCIDENTAL.keys() & kept.keys():
        kept[group] = {name: value for name, value in kept[group].items() if name not in INCIDENTAL[group]}
    return kept


def name_of(data: str, model: str, overrides: Sequence[str], seed: int) -> str:
    """A run's name, made from its overrides: ``demo``, ``demo/seed1``, ``demo/loss.soft.weight=0.5``.

    It begins with the data, and the model where that is not the data's default: the runs in one folder share a base. A
    config group is named by its choice, and defaults are left out: ``demo/hard/seed0`` for ``loss=hard seed=0``,
    ``demo/seed0`` for ``loss=all seed=0``.
    """
    chosen = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    apart = {*NAMED_APART, *(f"{group}.{name}" for group, names in INCIDENTAL.items() for name in names)}
    words = [chosen[group] for group in GROUPS if group in chosen and chosen[group] != DEFAULTS.get(group)]
    words += [f"{key}={value}" for key, value in chosen.items() if key not in {*apart, *GROUPS}]
    label = ",".join(words)
    safe = re.sub(r"[^\w.=,+-]+", "_", label)
    short = safe if len(safe) <= 80 else f"{safe[:64]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    base = data if model == default_model(data) else f"{data}-{model}"
    return "/".join(filter(None, (base, short, f"seed{seed}" if "seed" in chosen else "")))


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    old, new = dict(flat(essential(there))), dict(flat(essential(here)))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [f"{name}: {old.get(name)} there, {new.get(name)} here" for name in changed[:3]]
    return "; ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
