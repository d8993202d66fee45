"""The store against one safetensors file a sample: write, read in order, read shuffled; and bytes a step."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from sekd.store import Layout, Plan, Store, build_rows
from sekd.store.schema import SOFT_COLUMNS

ROWS, STEPS, SHARDS, LAYERS, HIDDEN, K = 8192, 4, 4, 2, 1024, 32
CANDIDATES = 8000  # of a level: an image bends their order, but lifts nothing from far below


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
    candidates = rng.permuted(np.tile(np.arange(4, layout.vocab_size), (STEPS, 1)), axis=1)[:, :CANDIDATES]
    shards = [_shard(rng, layout, candidates, number) for number in range(SHARDS)]
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
    soft = sum(_soft_bytes(store.path / "shards" / f"{number:05}" / "targets.parquet") for number in range(SHARDS))
    exact = LAYERS * HIDDEN * 2
    return result | {
        "soft_bytes_a_step": soft / ROWS,
        "target_bytes_a_step": targets / ROWS,
        "hidden_bytes_a_step": hidden / ROWS,
        "hidden_bytes_over_exact": hidden / ROWS / exact,
    }


def _seconds(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _soft_bytes(file: Path) -> int:
    """Bytes of the distribution's columns in a file of targets."""
    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.split(".")[0] in SOFT_COLUMNS)


def _distributions(rng: np.random.Generator, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Top k of one path's steps: Zipf-like over its level's candidates, bent by the image; letters are likeliest."""
    logits = rng.standard_normal((STEPS, 4 + CANDIDATES))
    logits[:, 4:] -= np.log(np.arange(1, CANDIDATES + 1))
    logits[:, :4] = logits.max(1, keepdims=True) + 6 + 4 * rng.random((STEPS, 4))
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    top = np.argsort(-logprobs, axis=1)[:, :K]
    ids = np.take_along_axis(np.hstack([np.tile(np.arange(4), (STEPS, 1)), candidates]), top, axis=1)
    kept = np.take_along_axis(logprobs, top, axis=1)
    return ids, kept, np.log1p(-np.exp(kept).sum(1))


def _shard(rng: np.random.Generator, layout: Layout, candidates: np.ndarray, number: int) -> tuple[Any, np.ndarray]:
    """Rows that compress as a real model's: peaked distributions, names and paths of ordinary length."""
    count = ROWS // SHARDS
    ids, logprobs, tails = map(
        np.concatenate, zip(*(_distributions(rng, candidates) for _ in range(count // STEPS)), strict=True)
    )
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
        "tail_logprob": tails.astype(np.float32),
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
