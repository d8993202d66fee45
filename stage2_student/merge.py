"""`make merge`: write a student merged into its base model, with its processor, for tools without adapter support."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from sekd.errors import SekdError, exit_on_error
from sekd.models import PROCESSOR_FILES, ModelConfig, load_vlm, model_folder
from sekd.recent import read_settings, run_folder
from stage2_student.runs import ADAPTER

MERGED = "merged"


def merge(run: Path, *, dtype: Any = "auto") -> Path:
    """Write ``<run>/merged`` from ``<run>/adapter`` and the base model that the run's settings name.

    Raises:
        SekdError: the folder holds no run that has ended.
    """
    from peft import PeftModel

    settings = read_settings(run)
    if not settings or not (run / ADAPTER).is_dir():
        raise SekdError(f"{run} holds no student: expected config.yaml and {ADAPTER}/ in it; `make student` makes them")
    model = ModelConfig(**settings["model"])
    merged = PeftModel.from_pretrained(load_vlm(model, dtype=dtype), str(run / ADAPTER)).merge_and_unload()
    folder = run / MERGED
    partial = run / f".{MERGED}.partial"  # an incomplete model must not be used
    shutil.rmtree(partial, ignore_errors=True)
    merged.save_pretrained(partial)
    base = model_folder(model)
    for file in {file for pattern in PROCESSOR_FILES for file in base.glob(pattern)}:
        shutil.copy(file, partial / file.name)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="runs/<name>; the newest one by default")
    arguments = parser.parse_args()
    with exit_on_error():
        print(merge(run_folder(arguments.run)))


if __name__ == "__main__":
    main()
