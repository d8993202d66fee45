"""Stage 1: ``python -m stage1_teacher [data=…] [model=…] [engine=…] [key=value …]``."""

from hydra.core.hydra_config import HydraConfig

from sekd.entry import entry
from sekd.recent import PASS_FILE, record
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import run


@entry("teacher", TeacherConfig)
def main(config: TeacherConfig) -> None:
    store, hydra = run(config), HydraConfig.get()
    record(store.path / PASS_FILE, hydra.runtime.choices, hydra.overrides.task)


if __name__ == "__main__":
    main()
