"""lmms-eval as a program: where it is installed, and one run of it over one model.

It pins versions of its own, so it may live in an environment of its own, ``.venv-general``.
``python -m sekd.evaluation.general.harness`` says which one is used, or how to get one.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sekd.errors import SekdError, exit_on_error
from sekd.models import WEIGHT_FILES, digest

OWN = Path(".venv-general")
HOW_TO_GET_IT = (
    f"lmms-eval is not installed. Give it an environment of its own: `python3 -m venv {OWN} && "
    f"{OWN}/bin/pip install lmms-eval vllm`, then run the same command again"
)
ASKED = "asked.json"  # what a folder of results was asked of: written last


def find_python() -> str:
    """The Python that has lmms-eval: this one, or that of ``.venv-general``.

    Raises:
        SekdError: neither has; says how to get it.
    """
    if importlib.util.find_spec("lmms_eval"):
        return sys.executable
    python = OWN / "bin" / "python"
    if python.exists():
        found = subprocess.run([str(python), "-c", "import lmms_eval"], capture_output=True, check=False)
        if found.returncode == 0:
            return str(python)
    raise SekdError(HOW_TO_GET_IT)


@dataclass(frozen=True)
class Harness:
    """How lmms-eval is run.

    Attributes:
        backend: its name for what serves the model ("vllm", "qwen2_5_vl", …).
        keyword: what that backend calls the model's folder ("model" for vllm, "pretrained" for most others).
        arguments: more of the backend's arguments, as it writes them: "gpu_memory_utilization=0.8,…".
        limit: samples of each task at most.
    """

    python: str
    backend: str = "vllm"
    keyword: str = "model"
    arguments: str = ""
    limit: int | None = None

    def run(self, model: Path, task: str, output: Path) -> None:
        """One task, unless ``output`` holds its results for this very model and these settings already.

        Raises:
            SekdError: lmms-eval ended in an error, which stands above on the terminal.
        """
        asked = {"weights": digest(model, WEIGHT_FILES), "task": task, **self._settings()}
        note = output / ASKED
        if note.is_file() and json.loads(note.read_text()) == asked:
            print(f"{output}: kept already")
            return
        output.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        command = self._command(model, task, output)
        print(" ".join(command), flush=True)
        ended = subprocess.run(command, check=False).returncode
        if ended:
            raise SekdError(f"lmms-eval ended with status {ended} on task {task}; its own words stand above")
        note.write_text(json.dumps(asked, indent=1) + "\n")

    def _settings(self) -> dict[str, str | int | None]:
        return {"backend": self.backend, "arguments": self.arguments, "limit": self.limit}

    def _command(self, model: Path, task: str, output: Path) -> Sequence[str]:
        arguments = ",".join(part for part in (f"{self.keyword}={model}", self.arguments) if part)
        command = [self.python, "-m", "lmms_eval", "--model", self.backend, "--model_args", arguments]
        command += ["--tasks", task, "--batch_size", "1", "--log_samples", "--output_path", str(output)]
        return [*command, "--limit", str(self.limit)] if self.limit else command


if __name__ == "__main__":
    with exit_on_error():
        print(f"lmms-eval of {find_python()}")
