"""Bytes, reading speed and cost of each ``hidden_dtype``, and what other tools store of an image.

The states are those of the newest complete pass over the demo (``make teacher``), which must be float32.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.apart import run_apart
from benchmarks.measure import take_turns, timed
from sekd.store import Plan, Store, as_float32
from stage2_student.losses import hidden as hidden_loss

DTYPES = ("bfloat16", "float8_e4m3", "int8")
HIDDEN, LEVELS, PROMPT, K = 3584, 6, 768, 32  # Qwen2.5-VL-7B; levels of iNaturalist; positions of a prompt
TARGETS = 123  # bytes of a row's columns: artifacts/README.md
STEPS = 60


def copied(store: Store, root: Path, dtype: str) -> Store:
    """The pass with its hidden states in another type."""
    layout = replace(store.layout, hidden_dtype=dtype)
    copy = Store.create(root / dtype / "demo", identity=store.identity, plan=store.plan, layout=layout)
    for index in copy.missing():
        hidden = as_float32(store.hidden(index), store.layout.hidden_dtype)
        copy.write_shard(index, store.read_targets(index), hidden, {}, skipped=store.entry(index).skipped)
    return copy


def wide(store: Store, root: Path, dtype: str) -> Store:
    """Two shards of the same rows with random states of a 7B model's size."""
    layout = replace(store.layout, hidden_dtype=dtype, hidden_size=HIDDEN)
    shards = [store.entry(index) for index in range(2)]
    assert not any(entry.skipped for entry in shards), "the demo has no unreadable image"
    plan = Plan(2 * store.plan.shard_size, store.plan.shard_size)
    copy = Store.create(root / "wide" / dtype, identity=store.identity, plan=plan, layout=layout)
    for index, entry in enumerate(shards):
        states = np.random.default_rng(index).standard_normal((entry.rows, 1, HIDDEN), np.float32)
        copy.write_shard(index, store.read_targets(index), states, {})
    return copy


def read_all(store: Store) -> None:
    """Every chunk as the student reads it, checked and decoded."""
    for index in range(store.plan.n_shards):
        chunks = store.hidden_chunks(index)
        for chunk in range(len(chunks)):
            chunks.read(chunk)


def train(store: Store, root: Path) -> dict[str, float]:
    """The validation of a short run of the student's command."""
    command = [sys.executable, "-m", "stage2_student", "model=tiny", "data=demo", f"store={store.path}"]
    short = [f"trainer.max_steps={STEPS}", "validation.images=400", "validation.times=0", "trainer.progress=false"]
    run_apart([*command, *short, "recipe=tiny_paper", f"runs={root}", "name=run"], stdout=subprocess.DEVNULL)
    return json.loads(next(root.rglob("metrics.json")).read_text())["val"]


def show_bytes(rounds: int) -> None:
    """Print both tables."""
    store = Store.find(Path("artifacts"), "demo")
    plain = torch.from_numpy(
        np.concatenate([as_float32(store.hidden(n), "float32") for n in range(store.plan.n_shards)])
    )
    with tempfile.TemporaryDirectory(prefix="sekd-bytes-") as folder:
        root = Path(folder)
        large = {dtype: wide(store, root, dtype) for dtype in DTYPES}
        arms: dict[str, Callable[[], float]] = {name: timed(partial(read_all, each)) for name, each in large.items()}
        seconds = take_turns(arms, rounds=rounds)
        print("| `hidden_dtype` | bytes a row | reading / bfloat16 | error | hidden loss against the teacher's own "
              f"| after {STEPS} steps: hidden loss | soft loss | HCA |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
        for dtype in DTYPES:
            copy, wides = copied(store, root, dtype), large[dtype]
            size = sum(file.stat().st_size for file in wides.path.glob("shards/*/*.zarr/**/*") if file.is_file())
            rows = sum(wides.entry(index).rows for index in range(wides.plan.n_shards))
            shards = [as_float32(copy.hidden(index), dtype) for index in range(copy.plan.n_shards)]
            kept = torch.from_numpy(np.concatenate(shards))
            error = ((kept - plain).norm(dim=-1) / plain.norm(dim=-1)).mean().item()
            cosine = hidden_loss(kept, plain, distance="cosine").mean().item()
            ratio = np.median(np.divide(seconds[dtype], seconds["bfloat16"]))
            found = train(copy, root / f"runs-{dtype}")
            print(f"| `{dtype}` | {size / rows:,.0f} | {ratio:.2f} | {100 * error:.2f} % | {cosine:.1e} | "
                  f"{found['hidden']:.4f} | {found['soft']:.4f} | {found['hca']:.1f} |", flush=True)  # fmt: skip
    print(f"\n| stored of an image of {LEVELS} levels, one layer of {HIDDEN:,} | bytes | times ours |\n|---|---|---|")
    ours = LEVELS * (TARGETS + 2 * HIDDEN)
    for name, count in others().items():
        print(f"| {name} | {count:,} | {count / ours:.2f} |")


def others() -> dict[str, int]:
    """Arithmetic on each tool's format; a level is a request of ``PROMPT`` positions, all of which the others store."""
    positions = LEVELS * PROMPT
    distillkit = 16 * 2 + 6 * 4 + 128 * 18 // 8  # its recommended settings, at a vocabulary of 152,064
    return {
        "here, bfloat16": LEVELS * (TARGETS + 2 * HIDDEN),
        "here, float8_e4m3 or int8": LEVELS * (TARGETS + HIDDEN + 4),
        "vLLM's connector: bfloat16, all positions, token ids of 64 bits": positions * (2 * HIDDEN + 8),
        "speculators: the same, its default of four layers": positions * (4 * 2 * HIDDEN + 8),
        "speculators, fp8: four layers, a scale a position": positions * (4 * HIDDEN + 4 + 8),
        f"Megatron-LM, top {K}: fp16, index of 16 + 8 bits, before zstd": positions * K * 5,
        "DistillKit, top 128: 16 exact, 6 terms, 18 bits an index": positions * distillkit,
    }
