"""Photos without labels, as a user types it: a folder and a tree in, a report and named photos out."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from sekd.embedded.world import write_world
from sekd.store import Store
from sekd.taxonomy import load_taxonomy

ROOT = Path(__file__).parents[1]
IMAGES = 24


def command(module: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_folder_of_photos_and_a_tree_are_enough(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", images={"val": {"Fauna": IMAGES}})
    tree = [line for line in (world / "tree.csv").read_text().splitlines() if "kingdom" in line or "_Fauna_" in line]
    (tmp_path / "fauna.csv").write_text("\n".join(tree))
    photos, truth = tmp_path / "photos", {}
    photos.mkdir()
    for number, file in enumerate(sorted(world.rglob("*.jpg"))):
        shutil.copy(file, photos / f"{number:02}.jpg")
        truth[f"{number:02}.jpg"] = load_taxonomy(tmp_path / "fauna.csv", skip=1).keys[file.parent.name.lower()][1:]
    shutil.rmtree(world)  # no label is left on the disk

    data = ["data=photos", f"data.root={photos}", f"data.hierarchy={tmp_path / 'fauna.csv'}", "data.skip=1"]
    here = [f"artifacts={tmp_path / 'artifacts'}", "model=tiny"]
    said = command("stage1_teacher", *data, *here, "engine=cpu", "engine.in_process=true", "progress=false")
    assert "about 10 questions an image with beam 3, at most 10; then one a level" in " ".join(said.split())
    [path] = (tmp_path / "artifacts/photos").iterdir()
    rows = pa.concat_tables(Store.open(path).read_targets(i) for i in range(1)).to_pylist()
    answered = {name: tuple(r["options"][r["answer"]] for r in rows if r["sample"] == name) for name in truth}
    assert sum(answered[name] == truth[name] for name in truth) >= 0.9 * IMAGES

    run = tmp_path / "runs/mine"
    settings = ["name=mine", f"runs={tmp_path / 'runs'}", "min_path_probability=0.1", "optim.epochs=1"]
    quick = ["optim.batch_size=8", "validation.times=0", "trainer.progress=false", "stream.workers=1"]
    command("stage2_student", *data, *here, *settings, *quick)
    command("sekd.evaluation.report", str(run))
    report = (run / "report.md").read_text()
    assert "The data have no labels, so no answer can be scored" in report
    assert "How sure the teacher's paths are" in report

    out = tmp_path / "names.csv"
    command("sekd.evaluation.predict", "--adapter", str(run / "adapter"), "--top", "2", "--out", str(out), str(photos))
    with out.open() as stream:
        named = list(csv.DictReader(stream))
    assert [row["rank"] for row in named] == ["1", "2"] * IMAGES
    assert {row["root"] for row in named} == {"Fauna"}
