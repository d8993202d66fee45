"""Rows a second out of the student's reader, shuffled, against a DataLoader over one safetensors file a sample.

All hand out batches of tensors of the stored type, in one process. A sample of the teacher's pass is one step of one
image, which is one request to the engine and one file of vLLM's own connector; the other arm keeps all four steps of
an image in one file. Everything is in the page cache: a disk's own speed would be the same for all.
"""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import interleaved, ratio, timed
from sekd.store import Layout, Plan, Store, build_rows
from sekd.store.hidden import CHUNK_ROWS
from stage2_student.order import Order
from stage2_student.stored import HeldOut, Part, Reader, TeacherPath, Wanted

LAYERS, HIDDEN, K, STEPS = 3, 3584, 32, 4
SHARD, BATCH = 512, 32
VOCABULARY = 152_064


class Files(Dataset):
    """One file a place."""

    def __init__(self, folder: Path, places: int) -> None:
        self._folder, self._places = folder, places

    def __len__(self) -> int:
        return self._places

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(_file(self._folder, place))


def measure_loader(folder: Path, *, images: int, rounds: int) -> dict[str, Any]:
    """Write the same targets in each form and read them in turns."""
    store, by_step, by_image = _write(folder, images)
    gc.freeze()  # as the student's workers do
    arms = {
        "store": lambda: _read_store(store, images),
        "file a step": lambda: _read_files(by_step, images * STEPS, batch=BATCH * STEPS),
        "file an image": lambda: _read_files(by_image, images, batch=BATCH),
    }
    seconds = interleaved({name: timed(arm) for name, arm in arms.items()}, rounds=rounds)
    gc.unfreeze()
    rows = images * STEPS
    return {
        "rows": rows,
        "layers": LAYERS,
        "hidden": HIDDEN,
        "rows_a_second": {name: rows / float(np.median(taken)) for name, taken in seconds.items()},
        "ratios": {f"store / {name}": ratio(seconds[name], seconds["store"]) for name in list(arms)[1:]},
        "seconds": seconds,
    }


def _read_store(store: Store, images: int) -> None:
    order = Order((SHARD,) * (images // SHARD), CHUNK_ROWS // STEPS, 8, BATCH, 256, seed=0)
    wanted = Wanted(candidates=True, layers=tuple(range(LAYERS)))
    reader = Reader(Part(store, wanted, HeldOut(0)), open_shards=8)
    for block in order.blocks(0):
        paths = list(reader.read(block.runs))
        line = np.random.default_rng(block.seed).permutation(len(paths))
        for start in range(0, len(paths), BATCH):
            _collated([paths[place] for place in line[start : start + BATCH]])


def _collated(paths: list[TeacherPath]) -> list[Tensor]:
    """As ``stage2_student.encode`` does with what is stored."""
    parts = [path.candidates for path in paths if path.candidates]
    states = [path.hidden_SRD for path in paths if path.hidden_SRD is not None]
    stored = (states, [c.ids_SK for c in parts], [c.logprobs_SK for c in parts], [c.tail_S for c in parts])
    return [torch.from_numpy(np.concatenate(arrays)) for arrays in stored]


def _read_files(folder: Path, places: int, *, batch: int) -> None:
    torch.manual_seed(0)
    for _ in DataLoader(Files(folder, places), batch_size=batch, shuffle=True):
        pass


def _file(folder: Path, place: int) -> Path:
    return folder / f"{place:06}.safetensors"


def _write(folder: Path, images: int) -> tuple[Store, Path, Path]:
    layout = Layout(
        k=K,
        layers=range(1, LAYERS + 1),
        hidden_size=HIDDEN,
        hidden_dtype="float16",
        vocab_size=VOCABULARY,
        letter_ids=range(4),
    )
    store = Store.create(folder / "wide", identity={}, plan=Plan(images, SHARD), layout=layout)
    by_step, by_image = folder / "by-step", folder / "by-image"
    by_step.mkdir()
    by_image.mkdir()
    rng = np.random.default_rng(0)
    for shard in store.missing():
        columns = _columns(rng, SHARD * STEPS, first=shard * SHARD)
        hidden = rng.standard_normal((SHARD * STEPS, LAYERS, HIDDEN), np.float32).astype(np.float16)
        store.write_shard(shard, build_rows(layout, columns), hidden, {})
        for row in range(SHARD * STEPS):
            _save(_file(by_step, shard * SHARD * STEPS + row), columns, hidden, slice(row, row + 1))
        for place in range(SHARD):
            _save(_file(by_image, shard * SHARD + place), columns, hidden, slice(place * STEPS, (place + 1) * STEPS))
    return store, by_step, by_image


def _columns(rng: np.random.Generator, count: int, *, first: int) -> dict[str, Any]:
    logits = np.sort(rng.gumbel(size=(count, K)) * 2, axis=1)[:, ::-1]
    names = [f"{first + row // STEPS:06}.jpg" for row in range(count)]
    steps = [row % STEPS for row in range(count)]
    return {
        "sample": names,
        "image": names,
        "step": steps,
        "n_steps": [STEPS] * count,
        "depth": [step + 1 for step in steps],
        "level": [("order", "family", "genus", "species")[step] for step in steps],
        "options": [["Name1", "Name2", "Name3", "Name4"]] * count,
        "answer": [0] * count,
        "truth": [0] * count,
        "topk_ids": np.stack([rng.choice(VOCABULARY, K, replace=False) for _ in range(count)]).astype(np.int32),
        "topk_logprobs": (logits - np.log(np.exp(logits).sum(1, keepdims=True)) + np.log(0.999)).astype(np.float32),
        "tail_logprob": np.full(count, np.log(0.001), np.float32),
    }


def _save(file: Path, columns: dict[str, Any], hidden: np.ndarray, rows: slice) -> None:
    from safetensors.numpy import save_file

    names = ("topk_ids", "topk_logprobs", "tail_logprob")
    tensors = {"hidden": hidden[rows], **{name: columns[name][rows] for name in names}}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file)
