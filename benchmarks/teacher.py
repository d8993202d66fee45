"""The teacher's pass, as its command runs it, against a loop over transformers, and against itself without states."""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import torch

from benchmarks.loop import HfLoop
from benchmarks.measure import Comparison, take_turns
from benchmarks.setup import Setup, workers
from sekd.datasets import Example
from sekd.models import load_vlm

BATCHES = (1, 8, 32)
TOPK = 32
LOOPED = 32  # images that a loop is timed on; it has no start to amortise
WITHOUT = "pass without hidden states"


def compare_passes(setup: Setup, *, rounds: int) -> Comparison:
    """Seconds an image of every arm."""
    numbers = count()

    def one_pass(*overrides: str) -> float:
        store = setup.run_pass(f"pass{next(numbers)}", f"topk={TOPK}", *overrides)
        # Shards overlap in an engine, so only their sum is its time: from its first question to its last answer,
        # without the writing of its last shard.
        seconds = sum(store.provenance(shard)["seconds"] for shard in range(store.plan.n_shards))
        shutil.rmtree(store.path)
        return seconds / workers() / len(setup.dataset.examples)

    arms: dict[str, Callable[[], float]] = {"pass": one_pass, WITHOUT: partial(one_pass, "layers=[]")}
    loops = {f"loop, batch {batch}": hf_arm(setup, batch, cached=False) for batch in BATCHES}
    loops["loop, batch 8, key-value cache"] = hf_arm(setup, 8, cached=True)
    loops["loop, batch 8, a process a core"] = hf_arm(setup, 8, cached=False, split=True)
    ratios = [*((loop, "pass") for loop in loops), ("pass", WITHOUT)]
    return Comparison(f"teacher, {setup.title}: an image of 4 levels", take_turns(arms | loops, rounds=rounds), ratios)


def hf_arm(setup: Setup, batch: int, *, cached: bool, split: bool = False) -> Callable[[], float]:
    """Seconds an image of the loop, on all cores or the GPU, over ``LOOPED`` images. Asks one batch now, to warm up.

    ``split`` is one process of a thread on each core, taken not to slow each other down: the loop at its best.
    """
    threads = torch.get_num_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vlm = load_vlm(setup.model, dtype=torch.float32).to(device)
    loop = HfLoop(vlm, setup.model, cached=cached)
    dataset = setup.dataset
    examples = dataset.examples[:LOOPED]

    def ask(part: Sequence[Example]) -> None:
        images = loop.images(setup.pictures(part))
        for step in loop.ask([dataset.questions(example) for example in part], images):
            step.logprobs_BV.topk(TOPK).indices.cpu()
            step.hidden_BH.cpu()

    def run() -> float:
        torch.set_num_threads(1 if split else threads)
        begin = time.perf_counter()
        for start in range(0, len(examples), batch):
            ask(examples[start : start + batch])
        seconds = (time.perf_counter() - begin) / len(examples)
        torch.set_num_threads(threads)
        return seconds / (threads if split else 1)

    ask(examples[:batch])
    return run
