"""The data and model of the newest pass and run, so that a command need not repeat another's settings.

The teacher records its choices beside the pass, the student beside the run. A later command that does not set data or
model takes the newest record: the student that of a pass, evaluation and later commands that of a run. A run also keeps
all its settings.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sekd import machine
from sekd.errors import SekdError
from sekd.files import write_whole

PASS_FILE = "provenance/choices.json"  # in artifacts/<dataset>/<fingerprint>
RUN_FILE = "choices.json"  # in runs/<name>
CONFIG = "config.yaml"  # there too: every setting, resolved
GROUPS = ("data", "model")


@dataclass(frozen=True)
class Recent:
    """The folder of a pass or run, and the overrides that set its data and model."""

    folder: Path
    overrides: tuple[str, ...]


def record(file: Path, choices: Mapping[str, str | None], overrides: Iterable[str]) -> None:
    """Record the data and model of a command, from Hydra's choice in each group and the command's overrides.

    A pass or run that is recorded again is the newest again.
    """
    named = [f"{group}={choices[group]}" for group in GROUPS]
    changed = [override for override in overrides if override.lstrip("+~").startswith(("data.", "model."))]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps([*named, *changed], indent=1) + "\n")


def newest_pass(artifacts: Path, overrides: Sequence[str] = ()) -> Recent | None:
    """The pass recorded last, among those with the data and model in the overrides."""
    return _newest(artifacts.glob(f"*/*/{PASS_FILE}"), PASS_FILE, overrides)


def newest_run(runs: Path, overrides: Sequence[str] = ()) -> Recent | None:
    """The complete run recorded last, among those with the data and model in the overrides."""
    complete = (file for file in runs.glob(f"**/{RUN_FILE}") if (file.parent / "metrics.json").is_file())
    return _newest(complete, RUN_FILE, overrides)


def run_folder(given: Path | None, runs: Path = Path("runs"), *, whole_group: bool = False) -> Path:
    """The given folder, or that of the newest run; a ``SekdError`` where there is none.

    Args:
        whole_group: the folder below ``runs`` that holds the run and related ones (other seeds, other losses).
    """
    if given is not None:
        return given
    newest = newest_run(runs)
    if newest is None:
        raise SekdError(f"{runs} holds no finished student: `make student` makes one, RUN=<name> names one")
    return runs / group_of(newest.folder, runs) if whole_group else newest.folder


def group_of(run: Path, runs: Path) -> str:
    return run.relative_to(runs).parts[0]


def read_settings(run: Path) -> dict[str, Any]:
    """The settings of the run in a folder; empty where there is none."""
    file = run / CONFIG
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names and values."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def inherited(overrides: Sequence[str], newest: Recent | None) -> list[str]:
    """The overrides to add to a command's own to continue the newest record.

    Without a record the model is ``machine.default_model`` of the data.
    """
    given = {override.lstrip("+~").partition("=")[0]: override.partition("=")[2] for override in overrides}
    if newest is None:
        data = given.get("data", "demo")
        return [] if "model" in given or "," in data else [f"model={machine.default_model(data)}"]
    return [override for override in newest.overrides if override.lstrip("+~").partition("=")[0] not in given]


def _newest(files: Iterable[Path], name: str, overrides: Sequence[str]) -> Recent | None:
    wanted = {o for o in overrides if o.partition("=")[0] in GROUPS and "," not in o}
    found = []
    for file in files:
        chosen = tuple(json.loads(file.read_text()))
        if wanted <= set(chosen):
            folder = file.parents[name.count("/")]
            found.append((file.stat().st_mtime_ns, Recent(folder, chosen)))
    return max(found, key=lambda pair: pair[0])[1] if found else None
