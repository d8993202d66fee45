"""``make evaluate``: base and students in every paradigm, in-domain and on unseen trees; the table and its meaning."""

from typing import Any

import hydra
from omegaconf import OmegaConf

from sekd.datasets.config import DataConfig, known_datasets
from sekd.entry import entry
from sekd.errors import SekdError
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.table import print_table
from sekd.inference import machine

machine.register()


@entry("evaluate", EvaluateConfig)
def main(config: EvaluateConfig) -> None:
    # Imported here, so that a wrong setting is told without waiting for torch and vLLM.
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
