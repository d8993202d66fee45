"""``python -m benchmarks [PART ...]``: speed as ratios to the obvious alternatives.

teacher   the pass against a loop over transformers, and against itself without parts
student   a training step on a store against the same step with the teacher in the loop
large     a LoRA step on a model of Qwen2.5-VL-7B's shape; needs a GPU
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from benchmarks.large import measure_large
from benchmarks.measure import Comparison, machine_and_versions
from benchmarks.setup import MODELS, prepare
from benchmarks.student import compare_steps
from benchmarks.teacher import compare_passes

PARTS = ("teacher", "student", "large")


def main() -> None:
    """Measure the parts one after the other, print each as a table and save all as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, nargs=2, default=(512, 48), help="for the small and the larger model; 0 leaves one out"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/results.json"))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts, found = given.parts or PARTS, []
    with tempfile.TemporaryDirectory(prefix="sekd-bench-") as name:
        for spec, images in zip(MODELS, given.images, strict=True):
            if not images:
                continue
            setup = prepare(spec, Path(name), images=images)
            for part, compare in (("teacher", compare_passes), ("student", compare_steps)):
                if part in parts:
                    found.append(_shown(compare(setup, rounds=given.rounds)))
    if "large" in parts and torch.cuda.is_available():
        found.append(_shown(measure_large(rounds=given.rounds)))
    elif "large" in parts:
        print("large: not measured, there is no GPU")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine_and_versions(), "comparisons": [one.to_dict() for one in found]}
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {given.out}")


def _shown(comparison: Comparison) -> Comparison:
    comparison.show()
    return comparison


if __name__ == "__main__":
    main()
