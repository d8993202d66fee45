"""Stage 1: ``python -m stage1_teacher [data=…] [model=…] [engine=…] [key=value …]``."""

from sekd.entry import entry
from sekd.errors import exit_on_error
from sekd.inference import machine
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import run
from stage1_teacher.stop import Stopped

machine.register()


@entry("teacher", TeacherConfig)
def main(config: TeacherConfig) -> None:
    """Run the pass."""
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
