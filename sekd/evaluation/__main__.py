"""``make evaluate``: base and students in every paradigm, in-domain and on unseen trees; prints a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

from sekd.datasets.config import DataConfig, known_datasets
from sekd.entry import entry, value_of
from sekd.errors import SekdError
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.table import print_table
from sekd.recent import Recent, group_of, newest_run


def _newest_run(overrides: Sequence[str]) -> tuple[Recent | None, list[str]]:
    """The newest run, or the newest below the named folder; related runs are evaluated with it."""
    runs, name = Path(value_of(overrides, "runs") or "runs"), value_of(overrides, "name")
    newest = newest_run(runs / (name or ""), overrides)
    return newest, [] if newest is None or name else [f"name={group_of(newest.folder, runs)}"]


@entry("evaluate", EvaluateConfig, newest=_newest_run)
def main(config: EvaluateConfig) -> None:
    # Imported here, so that a wrong setting is reported without waiting for torch and vLLM.
    from sekd.evaluation.evaluate import evaluate, unseen_names

    unseen = [_compose_data(name) for name in unseen_names(config)]
    print_table(evaluate(config, unseen=unseen))


def _compose_data(name: str) -> DataConfig:
    if name not in known_datasets():
        raise SekdError(f"unseen names {name!r}: conf/data holds {', '.join(known_datasets())}")
    composed: Any = OmegaConf.to_object(hydra.compose("evaluate", overrides=[f"data={name}"]))
    return composed.data


if __name__ == "__main__":
    main()
