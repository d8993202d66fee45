"""``make general TASKS=mmbench_en_dev_static,mmmu_val``: benchmarks of the base and the merged student, and deltas.

Names of tasks are lmms-eval's. These need no key: mmbench_en_dev_static, mmmu_val, mathvision_test, mme, seedbench.
These need a judge behind an API; without its key replies are scored at random or as wrong: mmbench_en_dev,
mathverse_testmini, mathvista_testmini. A dataset's questions as a task: ``make lmms-task``, then --include-path.

lmms-eval pins versions that this project's do not fit, so it has an environment of its own, ``.venv-general``.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.general.outcome import Outcome, compare, print_outcomes, read_results, write_outcomes
from sekd.evaluation.students import read_base
from sekd.files import write_whole
from sekd.models import WEIGHT_FILES, digest, model_folder
from sekd.recent import run_folder
from sekd.store import fingerprint

OWN = Path(".venv-general")
LEAST = (0, 7, 3)  # earlier releases lack a dependency of their vLLM model
HOW_TO_GET_IT = (
    f"`python3 -m venv {OWN} && {OWN}/bin/pip install 'lmms-eval>={'.'.join(map(str, LEAST))}' 'filelock<4' vllm`, "
    "then run the same command again"
)
MERGED = "merged"
ASKED = "asked.json"  # identifies a folder's results and their file; written last
TASK_FILES = ("**/*.yaml", "**/*.py", "**/*.jsonl")


@dataclass(frozen=True)
class Harness:
    """The interpreter that has lmms-eval, its version there, and the settings that --help explains."""

    python: str
    version: str
    backend: str = "vllm"
    keyword: str = "model"
    arguments: str = ""
    batch_size: int = 64
    max_model_len: int | None = None
    include_path: Path | None = None
    limit: int | None = None

    def run(self, model: Path, task: str, output: Path) -> Path:
        """One task: its results file, below ``output`` in a folder of this model and these settings alone.

        Stored results are not generated again.

        Raises:
            SekdError: the run wrote no complete results. Its exit status is not used: lmms-eval ends with 0 when it
                fails, and an engine may crash at exit after all is written.
        """
        asked = {
            "weights": digest(model, ("config.json", *WEIGHT_FILES)),
            "task": task,
            "lmms_eval": self.version,
            "backend": self.backend,
            "arguments": self.arguments,
            "max_model_len": self.max_model_len,
            "include": digest(self.include_path, TASK_FILES) if self.include_path else None,
            "limit": self.limit,
        }
        folder = output / fingerprint(asked)
        note = folder / ASKED
        if note.is_file() and (kept := folder / json.loads(note.read_text())["results"]).is_file():
            print(f"{folder}: kept already")
            return kept
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.rglob("*_results.json"))
        with TemporaryDirectory() as links:
            plain = [_without_comma(path, Path(links) / name) for name, path in (("model", model), ("output", folder))]
            command = self._command(plain[0], task, plain[1])
            print(" ".join(command), flush=True)
            ended = subprocess.run(command, check=False).returncode
        fresh = sorted(set(folder.rglob("*_results.json")) - before)
        if not fresh:
            raise SekdError(
                f"lmms-eval (status {ended}) wrote no results of task {task}; its own words stand above. "
                f"`{self.python} -m lmms_eval --tasks list` lists the tasks that there are"
            )
        read_results(fresh[-1])
        results = str(fresh[-1].relative_to(folder))
        write_whole(note, json.dumps({**asked, "results": results}, indent=1) + "\n")
        return fresh[-1]

    def _command(self, model: Path, task: str, output: Path) -> list[str]:
        room = f"max_model_len={self.max_model_len}" if self.max_model_len else ""
        arguments = ",".join(part for part in (f"{self.keyword}={model}", room, self.arguments) if part)
        command = [self.python, "-m", "lmms_eval", "--model", self.backend, "--model_args", arguments]
        command += ["--tasks", task, "--batch_size", str(self.batch_size), "--log_samples"]
        command += ["--output_path", str(output)]
        command += ["--include_path", str(self.include_path)] if self.include_path else []
        return [*command, "--limit", str(self.limit)] if self.limit else command


def _without_comma(path: Path, link: Path) -> Path:
    """The path, or a link to it: lmms-eval takes a comma, as in the name of a run, for the end of a setting."""
    if "," not in str(path):
        return path
    link.symlink_to(path.absolute(), target_is_directory=True)
    return link


def find_lmms_eval() -> tuple[str, str]:
    """The Python that has lmms-eval, this one or that of ``.venv-general``, and lmms-eval's version there.

    Raises:
        SekdError: neither has it, or only an old version; says how to install it.
    """
    for python in (sys.executable, str(OWN / "bin" / "python")):
        asked = [python, "-c", "from importlib.metadata import version; print(version('lmms-eval'))"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False) if Path(python).exists() else None
        if found and found.returncode == 0:
            version = found.stdout.strip()
            if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < LEAST:
                raise SekdError(f"{python} has lmms-eval {version}, which is too old: {HOW_TO_GET_IT}")
            return python, version
    raise SekdError(f"lmms-eval is not installed. Give it an environment of its own: {HOW_TO_GET_IT}")


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
        before, after = harness.run(base, name, folder / "base"), harness.run(run / MERGED, name, folder / "student")
        outcomes += compare(before, after)
        write_outcomes(run, outcomes)  # after each, because a benchmark takes long and the next may fail
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.general", description=__doc__)
    parser.add_argument(
        "run", nargs="?", type=Path, help="a student's folder with its merged model; by default the newest's"
    )
    parser.add_argument("--tasks", default="", help="lmms-eval's names, by commas")
    parser.add_argument("--backend", default="vllm", help="lmms-eval's --model: what serves the two models")
    parser.add_argument("--keyword", default="model", help="its argument for the model's folder; 'pretrained' for most")
    parser.add_argument("--arguments", default="", help="more of the backend's arguments: key=value,…")
    parser.add_argument("--batch-size", type=int, default=64, help="requests to the backend at a time: speed alone")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and reply that vLLM makes room for")
    parser.add_argument("--include-path", type=Path, help="a folder of tasks that lmms-eval does not bring")
    parser.add_argument("--limit", type=int, help="samples of each task at most: for a trial, not for a score")
    given = vars(parser.parse_args())
    with exit_on_error():
        run, tasks = given.pop("run"), given.pop("tasks")
        print_outcomes(run_benchmarks(run_folder(run), tasks, Harness(*find_lmms_eval(), **given)))


if __name__ == "__main__":
    main()
