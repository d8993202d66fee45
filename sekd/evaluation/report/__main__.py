"""``python -m sekd.evaluation.report runs/<name>``: write the run's report from its ``scores.json``."""

import argparse
from pathlib import Path

from sekd.errors import exit_on_error
from sekd.evaluation.report.build import write_report
from sekd.recent import run_folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.report", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    arguments = parser.parse_args()
    with exit_on_error():
        for file in write_report(run_folder(arguments.run, whole_group=True)):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
