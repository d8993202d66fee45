"""Stage 1: ``python -m stage1_teacher [data=…] [model=…] [engine=…] [key=value …]``."""

from hydra.core.hydra_config import HydraConfig

from sekd.entry import entry
from sekd.errors import exit_on_error
from sekd.recent import PASS_FILE, record
from sekd.store import Store
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import run


@entry("teacher", TeacherConfig)
def main(config: TeacherConfig) -> None:
    """Run the pass, and record its choices for the commands that go on with it."""
    store, hydra = finish(config), HydraConfig.get()
    record(store.path / PASS_FILE, hydra.runtime.choices, hydra.overrides.task)


def finish(config: TeacherConfig) -> Store:
    """Run the pass and turn how it ends into an exit status."""
    with exit_on_error():
        return run(config)


if __name__ == "__main__":
    main()
