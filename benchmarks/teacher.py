"""``python -m benchmarks.teacher``: the teacher pass against the obvious alternatives, as ratios.

On the embedded model and on one of 30 M parameters, both with random weights, on the same images, all arms taking
turns in the same run:

    loop, batch 1 / best   transformers, level by level
    no capture             the pass without hidden states
    no prefix cache        the pass without reuse of the image's prefix
    joint                  one generation an image instead of a step a level
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.arms import Arm, ArmSpec, Job
from benchmarks.measure import described, interleaved, ratio, save, show_ratio, table
from benchmarks.models import MODELS
from benchmarks.storage import measure_storage
from sekd.datasets import DataConfig
from sekd.embedded.world import write_world
from sekd.inference.dimensions import read_dimensions
from sekd.models import ModelConfig

BATCHES = (1, 8, 32)
LEVELS = 4


def main() -> None:
    """Measure, print the tables and save everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, nargs=2, default=(512, 48), help="for the small and the large model")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/teacher.json"))
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": described(), "cores": given.cores, "rounds": given.rounds, "models": {}}
    with tempfile.TemporaryDirectory(prefix="sekd-bench-") as folder:
        for name, images in zip(MODELS, given.images, strict=True):
            if name in given.models:
                results["models"][name] = measure_model(
                    name, Path(folder), images=images, cores=given.cores, rounds=given.rounds
                )
        results["storage"] = measure_storage(Path(folder))
    show(results)
    save(results, given.out)


def measure_model(name: str, folder: Path, *, images: int, cores: int, rounds: int) -> dict[str, Any]:
    """Seconds of every arm on one model, and the ratios that matter."""
    job = prepare(name, folder, images=images)
    specs = {
        "pass": ArmSpec("pass", processes=cores),
        "no capture": ArmSpec("pass", processes=cores, capture=False),
        "no prefix cache": ArmSpec("pass", processes=cores, prefix_caching=False),
        "joint": ArmSpec("joint", processes=cores),
        **{f"loop, batch {batch}": ArmSpec("loop", threads=cores, batch=batch) for batch in BATCHES},
    }
    arms = {}
    try:
        for arm, spec in specs.items():
            arms[arm] = Arm(job, spec)
        seconds = interleaved(arms, rounds=rounds)
    finally:
        for started in arms.values():
            started.close()
    best = min((arm for arm in seconds if arm.startswith("loop")), key=lambda arm: statistics.median(seconds[arm]))
    own = seconds["pass"]
    return {
        "images": images,
        "steps": images * LEVELS,
        "steps_a_second": {arm: images * LEVELS / statistics.median(taken) for arm, taken in seconds.items()},
        "best_loop": best,
        "ratios": {
            "batch-1 loop / pass": ratio(seconds["loop, batch 1"], own),
            "best loop / pass": ratio(seconds[best], own),
            "pass / without capture": ratio(own, seconds["no capture"]),
            "without prefix cache / pass": ratio(seconds["no prefix cache"], own),
            "conditioned / joint": ratio(own, seconds["joint"]),
        },
        "seconds": seconds,
    }


def prepare(name: str, folder: Path, *, images: int) -> Job:
    """Render the images and write the model."""
    world = folder / "world"
    if not world.exists():
        write_world(world, images={"train_mini": {"Fauna": max(256, images)}})
    model = MODELS[name](folder / name.split(",")[0].replace(" ", "-"))
    data = DataConfig(
        name="bench",
        format="inat",
        root=str(world),
        splits={"train": "train_mini.json", "val": None, "test": None},
        levels=["kingdom", "order", "family", "genus", "species"],
        skip=1,
    )
    config = ModelConfig(name="bench", path=str(model), dtype="float32", wording="terse")
    last = read_dimensions(config).layers
    return Job(data, config, images=images, layers=(last // 2, last), topk=32)


def show(results: dict[str, Any]) -> None:
    """The tables."""
    for name, model in results["models"].items():
        rates = [(arm, f"{rate:.1f}") for arm, rate in model["steps_a_second"].items()]
        table(f"{name}: {model['images']} images, {model['steps']} steps", ("arm", "steps/s"), rates)
        table("", ("ratio", "median (least to most)"), [(key, show_ratio(v)) for key, v in model["ratios"].items()])
    stored = results["storage"]
    rows = [
        (what, f"{stored[f'store_{key}']:.0f}", f"{stored[f'files_{key}']:.0f}")
        for what, key in (
            ("write MB/s", "write_mb_s"),
            ("read MB/s", "read_mb_s"),
            ("shuffled rows/s", "shuffled_rows_s"),
        )
    ]
    table("storage", ("", "store", "one safetensors file a sample"), rows)
    over = 100 * (stored["hidden_bytes_over_exact"] - 1)
    print(
        f"bytes a step: soft targets {stored['soft_bytes_a_step']:.1f} at k=32, all columns "
        f"{stored['target_bytes_a_step']:.1f}, hidden states "
        f"{stored['hidden_bytes_a_step']:.1f} ({over:.2f} % over layers × dim × 2)"
    )


if __name__ == "__main__":
    main()
