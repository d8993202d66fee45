"""``make general TASKS=mmbench_en_dev,mathvista_testmini``: benchmarks of the base and the merged student, and deltas.

Names of tasks are lmms-eval's: mmbench_en_dev, mme, seedbench, mathvista_testmini, mathverse_testmini, mathvision_test,
mmmu_val. Some of them judge answers through an API and need its key; lmms-eval says so.
"""

import argparse
from pathlib import Path

from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.general.harness import Harness, find_python
from sekd.evaluation.general.outcome import Outcome, compare, write_outcomes
from sekd.evaluation.general.table import print_outcomes
from sekd.evaluation.students import read_base
from sekd.models import model_folder

MERGED = "merged"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.general", description=__doc__)
    parser.add_argument("run", type=Path, help="a student's folder with its merged model, such as runs/inat")
    parser.add_argument("--tasks", default="", help="lmms-eval's names, by commas")
    parser.add_argument("--backend", default="vllm", help="lmms-eval's --model: what serves the two models")
    parser.add_argument("--keyword", default="model", help="what the backend calls the folder; 'pretrained' for most")
    parser.add_argument("--arguments", default="", help="more of the backend's arguments: key=value,…")
    parser.add_argument("--limit", type=int, help="samples of each task at most: for a trial, not for a score")
    given = parser.parse_args()
    with exit_on_error():
        python = find_python()
        harness = Harness(python, given.backend, given.keyword, given.arguments, given.limit)
        print_outcomes(run_benchmarks(given.run, given.tasks, harness))


def run_benchmarks(run: Path, tasks: str, harness: Harness) -> list[Outcome]:
    """Every task on base and student; ``general.json`` in the run folder holds what is returned.

    Raises:
        SekdError: no task is named, the run has no merged student, or lmms-eval failed.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise SekdError("no task is named: TASKS=mmbench_en_dev,mathvista_testmini (lmms-eval's names, by commas)")
    if not (run / MERGED / "config.json").is_file():
        raise SekdError(f"{run} holds no {MERGED}/ model: `make merge RUN={run.name}` makes it")
    base = model_folder(read_base(run))
    outcomes: list[Outcome] = []
    for name in names:
        folders = {who: run / "general" / name / who for who in ("base", "student")}
        harness.run(base, name, folders["base"])
        harness.run(run / MERGED, name, folders["student"])
        outcomes += compare(folders["base"], folders["student"])
        write_outcomes(run, outcomes)  # after each: a benchmark takes long, and the next may fail
    return outcomes


if __name__ == "__main__":
    main()
