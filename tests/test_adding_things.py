"""What CONTRIBUTING.md adds, a dataset, a model and a loss, is whole: it runs in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"### (A dataset|A model|A loss)\n(.*?)(?=\n###|\Z)", re.DOTALL)
NEW = re.compile(r'```\w+ title="(\S+)"\n(.*?)```', re.DOTALL)
PATCH = re.compile(r"```diff\n(.*?)```", re.DOTALL)
SECTIONS = dict(SECTION.findall((ROOT / "CONTRIBUTING.md").read_text()))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("sekd", "stage2_student", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add(section: str, project: Path) -> None:
    """Write the section's new files, and apply its hunks; each must fit exactly one place."""
    for name, text in NEW.findall(SECTIONS[section]):
        (project / name).write_text(text)
    for patch in PATCH.findall(SECTIONS[section]):
        for file, hunks in re.findall(r"\+\+\+ b/(\S+)\n(.*?)(?=--- a/|\Z)", patch, re.DOTALL):
            text = (project / file).read_text()
            for hunk in hunks.split("@@\n")[1:]:
                lines = hunk.splitlines(keepends=True)
                old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
                assert text.count(old) == 1, f"{file} has no single place for\n{old}"
                text = text.replace(old, new)
            (project / file).write_text(text)


def run(project: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("section", SECTIONS)
def test_each_takes_less_than_forty_lines(section: str) -> None:
    written = "".join(text for _, text in NEW.findall(SECTIONS[section]))
    added = [
        line for line in "".join(PATCH.findall(SECTIONS[section])).splitlines() if re.match(r"[+-](?!\+\+|--)", line)
    ]
    assert 0 < len(written.splitlines()) + len(added) < 40


def test_a_dataset_shows_its_questions(copy: Path) -> None:
    add("A dataset", copy)
    rows = ["image,order,species"]
    for number in range(40):
        name = f"{number}.png"
        (copy / "data/listed").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number, 0, 0)).save(copy / "data/listed" / name)
        rows.append(f"{name},order {number % 5},species {number % 20}")
    (copy / "data/listed/images.csv").write_text("\n".join(rows))
    run(copy, "-m", "sekd.preview", "data=listed", "model=tiny", "count=2", "out=page.html")
    page = (copy / "page.html").read_text()
    assert "species" in page
    assert re.search(r"order \d", page)


def test_a_model_shows_its_prompts(copy: Path) -> None:
    add("A model", copy)
    (copy / "data/demo").mkdir(parents=True)
    run(
        copy,
        "-c",
        "from sekd.embedded.world import write_world; write_world('data/demo', images={'train_mini': {'Fauna': 4}})",
    )
    said = run(
        copy, "-m", "sekd.preview", "model=mine", "count=1", "out=page.html", "data.splits.train=train_mini.json"
    )
    assert "model=mine" in said
    assert "taxonomist" in (copy / "page.html").read_text()


LOSS = """
from types import SimpleNamespace as Of

import torch
from stage2_student import config, losses
from stage2_student.model import States
from stage2_student.objective import Objective

none = dict(hard=config.HardConfig(0), soft=config.SoftConfig(0), hidden=config.HiddenConfig(0))
objective = Objective(config.LossConfig(**none, margin=config.MarginConfig(2.0)), n_layers=1)
logits, tokens = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.5, 2.0]]), torch.tensor([0, 1])
of_levels = dict(levels_N=tokens, level_names=("a", "b"), leaf_N=tokens == 1)
batch = Of(answer_positions=Of(tokens=tokens), shares_N=torch.full((2,), 0.5), **of_levels)
found = objective(States(logits, {}, None), batch, head=torch.nn.Identity(), norm=None)
print(found.terms_N["margin"].tolist(), float(found.total))
"""


def test_a_loss_is_a_term_of_the_total(copy: Path) -> None:
    add("A loss", copy)
    assert run(copy, "-c", LOSS).strip() == "[0.0, 2.5] 2.5"  # 2 x (0 + 2.5) / 2
