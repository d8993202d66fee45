"""`make student`: distil a student from a stored pass. Needs no teacher and no engine; only reads the store."""

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from sekd.entry import entry, is_main_process, own_overrides, value_of
from sekd.recent import RUN_FILE, Recent, newest_pass, record
from sekd.store import Store
from stage2_student.checks import check_settings
from stage2_student.config import StudentConfig
from stage2_student.runs import RunFolder, name_of


def _newest_pass(overrides: Sequence[str]) -> tuple[Recent | None, list[str]]:
    return newest_pass(Path(value_of(overrides, "artifacts") or "artifacts"), overrides), []


@entry("student", StudentConfig, newest=_newest_pass)
def main(config: StudentConfig) -> None:
    hydra = HydraConfig.get()
    config.name = config.name or name_of(config.data.name, config.model.name, own_overrides(), config.seed)
    check_settings(config)
    store = _find(config, config.store, config.paradigm)
    rehearsed = _find_rehearsed(config, store)
    run = RunFolder.of(config, fingerprint=store.fingerprint, rehearsed=rehearsed.fingerprint if rehearsed else None)
    if run.prepare(force=config.force):
        # Imported here, so that a finished or impossible run is reported without waiting for Lightning.
        from stage2_student.training import train

        if is_main_process():
            print(f"{run.path}: distilling from {store.path}")
        train(config, store, run, rehearsed=rehearsed)
    elif is_main_process():
        print(f"{run.path} holds the run of these very settings; force=true repeats it")
    record(run.path / RUN_FILE, hydra.runtime.choices, hydra.overrides.task)
    for name, value in (run.metrics() or {}).get("val", {}).items():
        if "/" not in name and is_main_process():
            print(f"  {name:16s} {value:.4g}")


def _find(config: StudentConfig, path: str | None, paradigm: str) -> Store:
    return Store.open(Path(path)) if path else Store.find(Path(config.artifacts), config.data.name, paradigm)


def _find_rehearsed(config: StudentConfig, store: Store) -> Store | None:
    rehearsal = config.rehearsal
    if rehearsal.paradigm is None:
        return None
    if rehearsal.store is None and rehearsal.paradigm == store.paradigm:
        return store
    return _find(config, rehearsal.store, rehearsal.paradigm)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after the tokenizer was used
    main()
