"""Stage 1: ``python -m stage1_teacher [data=…] [model=…] [engine=…] [key=value …]``."""

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sekd.errors import exit_on_error
from sekd.inference import machine
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import run
from stage1_teacher.stop import Stopped

machine.register()
ConfigStore.instance().store(name="teacher_schema", node=TeacherConfig)


@hydra.main(version_base=None, config_path="../conf", config_name="teacher")
def main(composed: DictConfig) -> None:
    """Compose the configuration and run the pass."""
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TeacherConfig)
    finish(config)


def finish(config: TeacherConfig) -> None:
    """Run the pass and turn how it ends into an exit status."""
    with exit_on_error():
        try:
            run(config)
        except Stopped as stopped:
            raise SystemExit(128 + stopped.signum) from None


if __name__ == "__main__":
    main()
