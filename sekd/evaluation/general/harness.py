"""lmms-eval as a program: where it is installed, and one run of it over one model.

It pins versions that this project's do not fit, so it lives in an environment of its own, ``.venv-general``.
``make general`` makes it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sekd.errors import SekdError
from sekd.evaluation.general.outcome import read_results
from sekd.files import write_whole
from sekd.models import WEIGHT_FILES, digest
from sekd.store import fingerprint

OWN = Path(".venv-general")
LEAST = (0, 7, 3)  # earlier releases lack a dependency of their vLLM model
HOW_TO_GET_IT = (
    f"`make general TASKS=…` does so, or `python3 -m venv {OWN} && {OWN}/bin/pip install "
    f"'lmms-eval>={'.'.join(map(str, LEAST))}' vllm`, then run the same command again"
)
ASKED = "asked.json"  # what a folder's results answer, and which file holds them: written last
TASK_FILES = ("**/*.yaml", "**/*.py", "**/*.jsonl")
Settings = dict[str, str | int | None]


@dataclass(frozen=True)
class Harness:
    """How lmms-eval is run.

    Attributes:
        python: the interpreter that has it; ``version``: of lmms-eval there.
        backend: its name for what serves the model ("vllm", "qwen2_5_vl", …).
        keyword: what that backend calls the model's folder ("model" for vllm, "pretrained" for most others).
        arguments: more of the backend's arguments, as it writes them: "gpu_memory_utilization=0.8,…".
        batch_size: requests handed to the backend at once.
        max_model_len: tokens of prompt and reply that vLLM makes room for; the model's own maximum where None.
        include_path: a folder of tasks that lmms-eval does not bring.
        limit: samples of each task at most.
    """

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

        What is kept there is not asked for again.

        Raises:
            SekdError: the run wrote no whole results. Its exit status tells nothing: lmms-eval ends with 0 when it
                fails, and an engine may crash on its way out after all is written.
        """
        asked = {"weights": digest(model, ("config.json", *WEIGHT_FILES)), "task": task, **self._settings()}
        folder = output / fingerprint(asked)
        note = folder / ASKED
        kept = folder / json.loads(note.read_text())["results"] if note.is_file() else None
        if kept and kept.is_file():
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

    def _settings(self) -> Settings:
        """What results depend on beside the model and the task; the batch size is speed alone."""
        return {
            "lmms_eval": self.version,
            "backend": self.backend,
            "arguments": self.arguments,
            "max_model_len": self.max_model_len,
            "include": digest(self.include_path, TASK_FILES) if self.include_path else None,
            "limit": self.limit,
        }

    def _command(self, model: Path, task: str, output: Path) -> Sequence[str]:
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
        SekdError: neither has, or only one that is too old; says how to get it.
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
