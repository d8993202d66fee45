"""Made-up teacher passes for the store's tests: any number of shards, from a seed alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from sekd.store import Layout, Plan, Store, build_rows

VOCAB = 500
IDENTITY = {"model": "a model", "seed": 1, "items": ["one", "two"]}
PLAN = Plan(n_examples=10, shard_size=4)


def layout(**changes) -> Layout:
    fields = {"k": 8, "layers": (2, 4), "hidden_size": 16, "hidden_dtype": "bfloat16", "vocab_size": VOCAB}
    return Layout(**{**fields, "letter_ids": (11, 12, 13, 14), **changes})


def distributions(rng: np.random.Generator, rows: int, k: int, vocab: int) -> dict[str, np.ndarray]:
    """Top-k of random softmax distributions: ids, descending logprobs, and the log of the mass left over."""
    logits = 3 * rng.standard_normal((rows, vocab))
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    order = np.argsort(-logprobs, axis=1)
    ranked = np.take_along_axis(logprobs, order, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.exp(ranked[:, k:]).sum(axis=1))
    return {"topk_ids": order[:, :k], "topk_logprobs": ranked[:, :k], "tail_logprob": tail.astype(np.float32)}


def shard(store: Store, index: int, *, seed: int = 0) -> tuple[pa.Table, np.ndarray | None]:
    """The rows and float32 hidden states ``[R, L, H]`` of one shard, the same at every call."""
    rng = np.random.default_rng((seed, index))
    steps = [(f"sample-{e:04d}", step, 2 + e % 3) for e in store.plan.examples(index) for step in range(2 + e % 3)]
    n, shape = len(steps), store.layout
    columns = {
        "sample": [sample for sample, _, _ in steps],
        "image": [f"images/{sample}.jpg" for sample, _, _ in steps],
        "step": [step for _, step, _ in steps],
        "n_steps": [n_steps for _, _, n_steps in steps],
        "depth": [step + 1 for _, step, _ in steps],
        "level": [("order", "family", "genus", "species")[step] for _, step, _ in steps],
        "options": [[f"name {rng.integers(100)}", "other", "third", "fourth"] for _ in steps],
        "answer": rng.integers(0, 4, n),
        "truth": rng.integers(-1, 4, n),
        **distributions(rng, n, shape.k, shape.vocab_size),
    }
    hidden = rng.standard_normal((n, len(shape.layers), shape.hidden_size)).astype(np.float32)
    return build_rows(shape, columns), hidden if shape.layers else None


def new_store(root: Path, *, plan: Plan = PLAN, identity: dict | None = None, **changes) -> Store:
    return Store.create(root, identity=identity or IDENTITY, plan=plan, layout=layout(**changes))


def fill(store: Store, *, seed: int = 0) -> Store:
    """Write every shard that the store still misses."""
    for index in store.missing():
        store.write_shard(index, *shard(store, index, seed=seed), {"device": "none"})
    return store


def data_bytes(store: Store) -> dict[str, bytes]:
    """Every file that is data, by name: all but the provenance, the locks and what is temporary."""
    aside = ("provenance", "locks", "tmp")
    files = (path for path in store.path.rglob("*") if path.is_file())
    named = {path.relative_to(store.path): path.read_bytes() for path in files}
    return {name.as_posix(): raw for name, raw in named.items() if name.parts[0] not in aside}
