"""The store against one safetensors file a sample: write, read in order, read shuffled; and bytes a step."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sekd.store import Layout, Plan, Store, build_rows

ROWS, STEPS, SHARDS, LAYERS, HIDDEN, K = 8192, 4, 4, 2, 1024, 32


def measure_storage(folder: Path) -> dict[str, float]:
    """MB/s written and read in order, rows/s shuffled, of both; and the store's bytes a step."""
    layout = Layout(
        k=K,
        layers=range(1, LAYERS + 1),
        hidden_size=HIDDEN,
        hidden_dtype="float16",
        vocab_size=152_064,
        letter_ids=range(4),
    )
    rng = np.random.default_rng(0)
    shards = [_shard(rng, layout, number) for number in range(SHARDS)]
    megabytes = sum(hidden.nbytes for _, hidden in shards) / 1e6
    store = Store.create(
        folder / "store", identity={}, plan=Plan(ROWS // STEPS, ROWS // STEPS // SHARDS), layout=layout
    )
    files = folder / "files"
    files.mkdir()
    result = {
        "store_write_mb_s": megabytes / _seconds(lambda: _write_store(store, shards)),
        "files_write_mb_s": megabytes / _seconds(lambda: _write_files(files, shards)),
        "store_read_mb_s": megabytes / _seconds(lambda: _read_store(store)),
        "files_read_mb_s": megabytes / _seconds(lambda: _read_files(files, range(ROWS))),
        "store_shuffled_rows_s": ROWS / _seconds(lambda: _shuffle_store(store)),
        "files_shuffled_rows_s": ROWS
        / _seconds(lambda: _read_files(files, random.Random(0).sample(range(ROWS), ROWS))),
    }
    sizes = [store.entry(number).files for number in range(SHARDS)]
    hidden = sum(file["bytes"] for entry in sizes for name, file in entry.items() if name.startswith("hidden"))
    targets = sum(entry["targets.parquet"]["bytes"] for entry in sizes)
    exact = LAYERS * HIDDEN * 2
    return result | {
        "target_bytes_a_step": targets / ROWS,
        "hidden_bytes_a_step": hidden / ROWS,
        "hidden_bytes_over_exact": hidden / ROWS / exact,
    }


def _seconds(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _shard(rng: np.random.Generator, layout: Layout, number: int) -> tuple[Any, np.ndarray]:
    """Rows as a real model's would compress: a peaked distribution over scattered ids, names of ordinary length."""
    count = ROWS // SHARDS
    ids = np.stack([rng.choice(layout.vocab_size, K, replace=False) for _ in range(count)]).astype(np.int32)
    logits = np.sort(rng.gumbel(size=(count, K)) * 2, axis=1)[:, ::-1]
    logprobs = (logits - np.log(np.exp(logits).sum(1, keepdims=True)) + np.log(0.999)).astype(np.float32)
    steps = [place % STEPS for place in range(count)]
    samples = [f"train_mini/{number:02}/{place // STEPS:06}.jpg" for place in range(count)]
    columns = {
        "sample": samples,
        "image": samples,
        "step": steps,
        "n_steps": [STEPS] * count,
        "depth": [step + 1 for step in steps],
        "level": [("order", "family", "genus", "species")[step] for step in steps],
        "options": [[f"Name{rng.integers(4000)}" for _ in range(4)] for _ in range(count)],
        "answer": rng.integers(0, 4, count).tolist(),
        "truth": rng.integers(0, 4, count).tolist(),
        "topk_ids": ids,
        "topk_logprobs": logprobs,
        "tail_logprob": np.full(count, np.log(0.001), np.float32),
    }
    hidden = rng.standard_normal((count, LAYERS, HIDDEN), np.float32).astype(np.float16)
    return build_rows(layout, columns), hidden


def _write_store(store: Store, shards: list[tuple[Any, np.ndarray]]) -> None:
    for number, (rows, hidden) in enumerate(shards):
        store.write_shard(number, rows, hidden, {})


def _write_files(folder: Path, shards: list[tuple[Any, np.ndarray]]) -> None:
    from safetensors.numpy import save_file

    number = 0
    for rows, hidden in shards:
        ids = np.stack(rows.column("topk_ids").to_pylist())
        logprobs = np.stack(rows.column("topk_logprobs").to_pylist())
        for row in range(len(hidden)):
            tensors = {"hidden": hidden[row], "topk_ids": ids[row], "topk_logprobs": logprobs[row]}
            save_file(tensors, folder / f"{number:06}.safetensors")
            number += 1


def _read_store(store: Store) -> None:
    for number in range(SHARDS):
        chunks = store.hidden_chunks(number)
        for chunk in range(len(chunks)):
            chunks.read(chunk)


def _shuffle_store(store: Store) -> None:
    """Chunks of all shards in random order, each row then copied out of a mixed buffer."""
    rng = random.Random(0)
    opened = [store.hidden_chunks(number) for number in range(SHARDS)]
    places = [(number, chunk) for number in range(SHARDS) for chunk in range(len(opened[number]))]
    rng.shuffle(places)
    buffer: list[np.ndarray] = []
    for number, chunk in places:
        buffer.extend(opened[number].read(chunk))
        while len(buffer) > 256:
            buffer.pop(rng.randrange(len(buffer))).copy()


def _read_files(folder: Path, order: Any) -> None:
    from safetensors.numpy import load_file

    for number in order:
        load_file(folder / f"{number:06}.safetensors")
