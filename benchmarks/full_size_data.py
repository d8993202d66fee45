"""Metadata of iNaturalist's full size and stores whose shards are all alike: what ``full_size`` measures on."""

import json
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sekd.store import Layout, Plan, Store, build_rows
from sekd.store import manifest as m
from sekd.store.hidden import encode, write_hidden
from sekd.store.store import write_targets

RANKS = {"kingdom": 3, "phylum": 13, "class": 51, "order": 273, "family": 1103, "genus": 4884, "species": 10_000}
LEVELS = [*RANKS]


def write_dataset(root: Path, images: int) -> None:
    """``train.json``, and the image files in a folder for each species."""
    rng, count = random.Random(0), RANKS["species"]
    categories, folders = [], []
    for number in range(count):
        path = {rank: f"{rank.capitalize()}us{number * size // count:05d}" for rank, size in RANKS.items()}
        categories.append({"id": number, **path, "name": f"{path['genus']} {path['species']}"})
        folders.append(root / "train" / "_".join([f"{number:05d}", *path.values()]))
        folders[-1].mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folders[-1] / "0.jpg")

    def image(number: int) -> dict[str, Any]:
        file = folders[number * 7919 % count] / f"{uuid.UUID(int=rng.getrandbits(128))}.jpg"
        os.link(file.with_name("0.jpg"), file)
        place = {"latitude": rng.random() * 90, "longitude": rng.random() * 180, "location_uncertainty": number % 99}
        more = {"rights_holder": f"photographer {number % 9999}", "date": "2018-07-16 20:42:01+00:00", "license": 0}
        name = file.relative_to(root).as_posix()
        return {"id": number, "width": 500, "height": 375, "file_name": name, **more, **place}

    parts: dict[str, Iterator[dict[str, Any]]] = {
        "images": map(image, range(images)),
        "annotations": ({"id": n, "image_id": n, "category_id": n * 7919 % count} for n in range(images)),
        "categories": iter(categories),
    }
    with (root / "train.json").open("w") as file:
        for start, (key, rows) in zip("{,,", parts.items(), strict=True):
            file.write(f'{start}"{key}": [{json.dumps(next(rows))}')
            file.writelines(f", {json.dumps(row)}" for row in rows)
            file.write("]")
        file.write("}")


def fill_store(root: Path, name: str, images: int, shard: int, hidden: int) -> None:
    """A store whose shards all hold the same rows, six an image, and hidden states of this size; 0 is none."""
    rng, rows = np.random.default_rng(0), 6 * shard
    layout = Layout(4, [1] if hidden else [], max(hidden, 1), "bfloat16", 99, [1, 2, 3, 4])
    store = Store.create(root / name, identity={}, plan=Plan(images // shard * shard, shard), layout=layout)
    names = [f"train/{row // 6:05d}_a_name_of_usual_length/{row // 6:036d}.jpg" for row in range(rows)]
    steps = [row % 6 for row in range(rows)]
    candidates = {"topk_ids": np.tile([1, 2, 3, 4], (rows, 1)), "tail_logprob": np.full(rows, np.log(0.05))}
    candidates["topk_logprobs"] = np.log(np.tile([0.6, 0.2, 0.1, 0.05], (rows, 1)))
    asked = {"level": [LEVELS[step + 1] for step in steps], "options": [["one", "two", "three", "four"]] * rows}
    numbers = {"step": steps, "n_steps": [6] * rows, "depth": steps, "answer": [0] * rows, "truth": [-1] * rows}
    table = build_rows(layout, {"sample": names, "image": names, **asked, **numbers, **candidates})
    states = encode(rng.standard_normal((rows, 1, hidden), np.float32), layout) if hidden else None
    for index in range(store.plan.n_shards):  # as ``write_shard``, but for its checks and the disk's flush
        (folder := m.shard_folder(store.path, index)).mkdir()
        write_targets(folder / m.TARGETS, table, store.manifest.marks(index))
        if states is not None:
            write_hidden(folder / m.HIDDEN, states, layout, store.manifest.marks(index))
        files = {file: m.file_digest(folder / file) for file in m.files_below(folder)}
        bounds = [index * shard, (index + 1) * shard]
        (folder / m.ENTRY).write_text(m.seal(vars(m.Entry(store.fingerprint, index, bounds, rows, {}, files))))
        m.provenance_file(store.path, index).write_text(m.seal({}))
