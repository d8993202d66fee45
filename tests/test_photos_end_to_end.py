"""Photos without labels, as a user types it: the commands of examples/own_photos in turn."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from sekd.store import Store

EXAMPLE = Path(__file__).parents[1] / "examples/own_photos"


@pytest.mark.slow
def test_a_folder_of_photos_and_a_tree_are_enough(tmp_path: Path) -> None:
    here = tmp_path / "own_photos"
    shutil.copytree(EXAMPLE, here)
    with (here / "truth.csv").open() as stream:
        truth = {row["file"]: tuple(row.values())[1:] for row in csv.DictReader(stream)}
    (here / "truth.csv").unlink()  # no label is left
    [block] = re.findall(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands, said = block.splitlines(), ""
    assert [line.split()[1] for line in commands] == ["preview", "teacher", "student", "report", "predict"]
    for line in commands:
        done = subprocess.run(line, shell=True, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        said += done.stdout + done.stderr
    assert "about 10 questions an image with beam 3, at most 10; then one a level" in " ".join(said.split())

    store = Store.find(here / "artifacts", "photos")
    rows = pa.concat_tables(store.read_targets(shard) for shard in range(store.plan.n_shards)).to_pylist()
    photos = [name for name in truth if name.startswith("photo")]
    answered = {name: tuple(r["options"][r["answer"]] for r in rows if r["sample"] == name) for name in photos}
    assert sum(answered[name] == truth[name] for name in photos) >= 0.9 * len(photos)

    report = (here / "runs/photos-tiny/report.md").read_text()
    assert "The data have no labels, so no answer can be scored" in report
    assert "How sure the teacher's paths are" in report

    with (here / "names.csv").open() as stream:
        named = list(csv.DictReader(stream))
    new = [name for name in truth if name.startswith("new")]
    assert [(Path(row["image"]).name, row["rank"]) for row in named] == [(name, rank) for name in new for rank in "12"]
    best = {
        Path(row["image"]).name: tuple(row[level] for level in ("order", "family", "genus", "species"))
        for row in named
        if row["rank"] == "1"
    }
    assert sum(best[name] == truth[name] for name in new) >= 3
