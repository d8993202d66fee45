"""``make evaluate``: base and students in every paradigm, in-domain and on unseen trees; the table and its meaning."""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sekd.datasets.config import DataConfig, known_datasets
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.table import print_table
from sekd.inference import machine

CONF = str(Path(__file__).parents[2] / "conf")


@hydra.main(config_path=CONF, config_name="evaluate", version_base="1.3")
def main(composed: DictConfig) -> None:
    with exit_on_error():
        # Imported here, so that a wrong setting is told without waiting for torch and vLLM.
        from sekd.evaluation.evaluate import evaluate, unseen_names

        config: Any = OmegaConf.to_object(composed)
        unseen = [_compose_data(name) for name in unseen_names(config)]
        print_table(evaluate(config, unseen=unseen))


def _compose_data(name: str) -> DataConfig:
    if name not in known_datasets():
        raise SekdError(f"unseen names {name!r}: conf/data holds {', '.join(known_datasets())}")
    composed: Any = OmegaConf.to_object(hydra.compose("evaluate", overrides=[f"data={name}"]))
    return composed.data


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    machine.register()
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    sys.exit(main())
