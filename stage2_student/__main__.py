"""`make student`: distils a student from a stored pass. Needs no teacher and no engine; leaves the store as it is."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from sekd.entry import entry
from sekd.store import Store
from stage2_student.checks import check_settings
from stage2_student.config import StudentConfig
from stage2_student.runs import RunFolder, name_of


@entry("student", StudentConfig)
def main(config: StudentConfig) -> None:
    hydra_config = HydraConfig.get()
    config.name = config.name or name_of(config.data.name, hydra_config.overrides.task, config.seed)
    check_settings(config)
    if config.store:
        store = Store.open(Path(config.store))
    else:
        store = Store.find(Path(config.artifacts), config.data.name, config.paradigm)
    run = RunFolder.of(config, fingerprint=store.fingerprint)
    if run.prepare(force=config.force):
        _train(config, store, run)
    else:
        print(f"{run.path} holds the run of these very settings; force=true repeats it")
    for name, value in (run.metrics() or {}).get("val", {}).items():
        if "/" not in name:
            print(f"  {name:16s} {value:.4g}")


def _train(config: StudentConfig, store: Store, run: RunFolder) -> None:
    # Imported here: a run that is there already, or cannot be, is told without waiting for torch.
    from stage2_student.training import train

    print(f"{run.path}: distilling from {store.path}")
    train(config, store, run)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after the tokenizer was used
    main()
