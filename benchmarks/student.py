"""``python -m benchmarks.student``: training from a store against the obvious alternatives, as ratios.

loader     rows a second, shuffled, against one safetensors file a sample
steps      offline against the teacher in the loop; and with the vision tower's output kept
logits     memory and time with logits at answer positions against everywhere
waiting    share of the steps spent waiting for input
start      seconds from the command to the first step
tail       deviation of the top-k loss from the dense one
large      a LoRA step of Qwen2.5-VL-7B's shape, where there is a GPU
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.loader import measure_loader
from benchmarks.logits import LENGTHS, measure_logits
from benchmarks.measure import described, save, show_ratio, table
from benchmarks.models import MODELS
from benchmarks.running import measure_first_step, measure_waiting
from benchmarks.setting import make_store
from benchmarks.steps import measure_steps
from benchmarks.tail import KEPT, measure_tail
from benchmarks.teacher import prepare
from sekd.embedded.tiny_vlm import BASE

BATCHES = {"embedded, 1.1 M": 32, "30 M, 224 px": 8}


def main() -> None:
    """Measure, print the tables and save everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, nargs=2, default=(256, 48), help="for the small and the large model")
    parser.add_argument("--samples", type=int, default=4096, help="images whose targets the loader reads")
    parser.add_argument("--steps", type=int, default=60, help="in which waiting is measured")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/student.json"))
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": described(), "rounds": given.rounds, "models": {}}
    with tempfile.TemporaryDirectory(prefix="sekd-bench-") as name:
        folder = Path(name)
        results["loader"] = measure_loader(folder, images=given.samples, rounds=given.rounds)
        for (model, batch), images in zip(BATCHES.items(), given.images, strict=True):
            results["models"][model] = measure_model(model, folder, batch=batch, images=images, given=given)
        results["logits"] = measure_logits(rounds=given.rounds)
        results["tail"] = measure_tail(prepare("embedded, 1.1 M", folder, images=64), base=str(BASE), images=64)
    if torch.cuda.is_available():
        from benchmarks.large import measure_large

        results["large"] = measure_large(rounds=given.rounds)
    show(results)
    save(results, given.out)


def measure_model(name: str, folder: Path, *, batch: int, images: int, given: argparse.Namespace) -> dict[str, Any]:
    """Steps of one model; of the embedded one also its command."""
    job = prepare(name, folder, images=images)
    own = folder / f"batch{batch}"
    store = make_store(job, own)
    found: dict[str, Any] = {"steps": measure_steps(job, store, own, batch=batch, rounds=given.rounds)}
    if name == next(iter(MODELS)):
        found["waiting"] = measure_waiting(job, store, own, batch=batch, steps=given.steps)
        found["first_step_seconds"] = measure_first_step(job, store, own, rounds=given.rounds)
    return found


def show(results: dict[str, Any]) -> None:
    """The tables."""
    _loader(results["loader"])
    for name, model in results["models"].items():
        _model(name, model)
    _logits(results["logits"])
    for name, found in results["tail"].items():
        rows = [
            (temperature, f"{of['dense']:.4f}", *(f"{of['bias_percent'][k]:+.3f} %" for k in KEPT))
            for temperature, of in found.items()
        ]
        table(f"soft loss against the dense KL: {name}", ("", "dense KL", *(f"k = {k}" for k in KEPT)), rows)
    if "large" in results:
        _large(results["large"])
    else:
        print("no GPU was found: the step of a model of 7 B parameters was not measured")


def _ratios(ratios: dict[str, Any]) -> None:
    table("", ("ratio", "median (least to most)"), [(key, show_ratio(value)) for key, value in ratios.items()])


def _loader(found: dict[str, Any]) -> None:
    rates = [(arm, f"{rate:,.0f}") for arm, rate in found["rows_a_second"].items()]
    table(f"loader: {found['rows']:,} rows of {found['layers']} × {found['hidden']}", ("arm", "rows/s"), rates)
    _ratios(found["ratios"])


def _model(name: str, model: dict[str, Any]) -> None:
    steps = model["steps"]
    rows = [(arm, f"{1000 * sorted(taken)[len(taken) // 2]:.0f}") for arm, taken in steps["seconds"].items()]
    table(f"{name}: step of {steps['batch']} images", ("arm", "ms"), rows)
    _ratios(steps["ratios"])
    if "waiting" in model:
        waiting, first = model["waiting"], sorted(model["first_step_seconds"])
        share, most = 100 * waiting["share"], 100 * waiting["most"]
        rate = f"{waiting['images_a_second']:.0f} images/s"
        print(f"input wait: {share:.2f} % of {waiting['steps']} steps (most {most:.2f} %), {rate}")
        print(f"first step: {first[len(first) // 2]:.1f} s after the command ({first[0]:.1f} to {first[-1]:.1f})")


def _logits(found: dict[str, Any]) -> None:
    arms = ("none", "answers", "everywhere")
    rows = [
        (
            arm,
            *(f"{found['step_mb'][f'{arm}, {length} tokens']:.0f}" for length in LENGTHS),
            *(f"{1000 * min(found['seconds'][f'{arm}, {length} tokens']):.0f}" for length in LENGTHS),
        )
        for arm in arms
    ]
    headings = [f"{what}, {length} tokens" for what in ("MB", "ms") for length in LENGTHS]
    title = f"logits over {found['vocabulary']:,} words: peak of the step, {found['prompts']} prompts"
    table(title, ("logits at", *headings), rows)
    _ratios(found["ratios"])


def _large(found: dict[str, Any]) -> None:
    rows = [
        (
            str(size),
            str(of["tokens"]),
            f"{max(of['images_a_second']):.2f}",
            f"{of['peak_gb']:.1f}",
            f"{100 * of['utilisation']:.0f} %",
        )
        for size, of in found["batches"].items()
    ]
    title = f"7 B shape, LoRA, {found['device']}, {found['matrix_tflops']:.0f} TFLOP/s in a matrix product"
    table(title, ("batch", "tokens", "images/s", "peak GB", "utilisation"), rows)
    shares = [(one["operation"][:60], f"{100 * one['share']:.1f} %", str(one["calls"])) for one in found["profile"]]
    table("where a step's time goes", ("operation", "share", "calls"), shares)


if __name__ == "__main__":
    main()
