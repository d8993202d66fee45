"""``python -m sekd.evaluation.report runs/<name>``: write the run's report from its kept generations."""

import argparse
from pathlib import Path

from sekd.errors import exit_on_error
from sekd.evaluation.report.build import write_report
from sekd.evaluation.scores import Bootstrap
from sekd.recent import run_folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.report", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--parser", default="lenient", choices=("lenient", "benchmark"), help="how answers are read")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples behind the intervals")
    arguments = parser.parse_args()
    with exit_on_error():
        bootstrap = Bootstrap(resamples=arguments.resamples)
        run = run_folder(arguments.run, whole_group=True)
        for file in write_report(run, bootstrap=bootstrap, parser=arguments.parser):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
