"""``make general TASKS=mmbench_en_dev_static,mmmu_val``: benchmarks of the base and the merged student, and deltas.

Names of tasks are lmms-eval's. These need no key: mmbench_en_dev_static, mmmu_val, mathvision_test, mme, seedbench.
These ask a judge behind an API, and answer at random or count as wrong without its key: mmbench_en_dev,
mathverse_testmini, mathvista_testmini. A dataset's questions as a task: ``make lmms-task``, then --include-path.
"""

import argparse
from pathlib import Path

from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.general.harness import Harness, find_lmms_eval
from sekd.evaluation.general.outcome import Outcome, compare, write_outcomes
from sekd.evaluation.general.table import print_outcomes
from sekd.evaluation.students import read_base
from sekd.models import model_folder
from sekd.recent import run_folder

MERGED = "merged"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.general", description=__doc__)
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        help="a student's folder with its merged model; by default the newest's",
    )
    parser.add_argument("--tasks", default="", help="lmms-eval's names, by commas")
    parser.add_argument("--backend", default="vllm", help="lmms-eval's --model: what serves the two models")
    parser.add_argument("--keyword", default="model", help="what the backend calls the folder; 'pretrained' for most")
    parser.add_argument("--arguments", default="", help="more of the backend's arguments: key=value,…")
    parser.add_argument("--batch-size", type=int, default=64, help="requests handed to the backend at once")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and reply that vLLM makes room for")
    parser.add_argument("--include-path", type=Path, help="a folder of tasks that lmms-eval does not bring")
    parser.add_argument("--limit", type=int, help="samples of each task at most: for a trial, not for a score")
    given = vars(parser.parse_args())
    with exit_on_error():
        run, tasks = given.pop("run"), given.pop("tasks")
        print_outcomes(run_benchmarks(run_folder(run), tasks, Harness(*find_lmms_eval(), **given)))


def run_benchmarks(run: Path, tasks: str, harness: Harness) -> list[Outcome]:
    """Every task on base and student; ``general.json`` in the run folder holds what is returned.

    Raises:
        SekdError: no task is named, the run has no merged student, or lmms-eval wrote no results.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise SekdError("no task is named: TASKS=mmbench_en_dev_static,mmmu_val (lmms-eval's names, by commas)")
    if not (run / MERGED / "config.json").is_file():
        raise SekdError(f"{run} holds no {MERGED}/ model: `python -m stage2_student.merge {run}` makes it")
    base = model_folder(read_base(run))
    outcomes: list[Outcome] = []
    for name in names:
        folder = run / "general" / name
        outcomes += compare(
            harness.run(base, name, folder / "base"), harness.run(run / MERGED, name, folder / "student")
        )
        write_outcomes(run, outcomes)  # after each: a benchmark takes long, and the next may fail
    return outcomes


if __name__ == "__main__":
    main()
