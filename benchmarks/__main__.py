"""``python -m benchmarks [PART ...]``: speed as ratios to the obvious alternatives.

teacher   the pass against a loop over transformers, and against itself without hidden states
student   a training step on a store against the same step with the teacher in the loop
large     a LoRA step on a model of Qwen2.5-VL-7B's shape; needs a GPU
online    a pass and two students against TRL's online distillation and against HF's Trainer
scale     hours and bytes on 1 to 64 GPUs: the project's pool over simulated nodes
front     what one engine's process can be fed, with a core that answers at once
occupancy how full the engine is over a pass: the project's scheduling over a simulated engine
bytes     size, reading speed and cost of each type of hidden states; needs a pass over the demo
full      seconds and memory of a dataset of 2.7 million images and its store
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.bytes import show_bytes
from benchmarks.front_end import show_front_end
from benchmarks.full_size import show_full
from benchmarks.large import measure_large
from benchmarks.measure import Comparison
from benchmarks.occupancy import show_occupancy
from benchmarks.online import show_online
from benchmarks.scale import show_scale
from benchmarks.setup import MODELS, prepare
from benchmarks.student import compare_steps
from benchmarks.teacher import compare_passes
from sekd.errors import SekdError
from sekd.provenance import machine, software

STAGES = {"teacher": compare_passes, "student": compare_steps}
PARTS = (*STAGES, "large", "online", "scale", "front", "occupancy", "bytes", "full")


def measure(parts: Sequence[str], images: Sequence[int], rounds: int) -> Iterator[Comparison]:
    """The comparisons of these parts; ``images`` are for each of ``MODELS``, 0 leaves one out."""
    compared = [compare for part, compare in STAGES.items() if part in parts]
    with tempfile.TemporaryDirectory(prefix="sekd-bench-") as folder:
        for model, count in zip(MODELS, images, strict=True):
            if count and compared:
                setup = prepare(model, Path(folder), images=count)
                yield from (compare(setup, rounds=rounds) for compare in compared)
    if "large" in parts and torch.cuda.is_available():
        yield measure_large(rounds=rounds)
    elif "large" in parts:
        print("large: not measured, there is no GPU")
    shown: dict[str, Callable[[], None]] = {
        **{"online": show_online, "scale": show_scale, "front": show_front_end, "occupancy": show_occupancy},
        **{"bytes": partial(show_bytes, rounds), "full": show_full},
    }
    for part, show in shown.items():
        if part in parts:
            try:
                show()
            except (SekdError, RuntimeError) as error:
                print(f"{part}: not measured, {error}")


def main() -> None:
    """Measure the parts one after the other, print each and save all as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, nargs=2, default=(1024, 64), help="for the small and the larger model; 0 leaves one out"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/results.json"))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found, load = [], os.getloadavg()[0]
    for comparison in measure(given.parts or PARTS, given.images, given.rounds):
        comparison.show()
        found.append(comparison.to_dict())
    results = {"machine": {"load": load, **machine(), **software()}, "comparisons": found}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {given.out}")


if __name__ == "__main__":
    main()
