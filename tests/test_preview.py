"""The preview page: all questions and prompts about a dozen images, in one file."""

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from sekd.datasets import DataConfig, Dataset, load_dataset
from sekd.errors import SekdError
from sekd.preview import page
from sekd.prompts import Prompter, load_wordings

ROOT = Path(__file__).parents[1]
TREE = "class,order,family,species\n" + "\n".join(
    f"bird{i},Order <{i % 3}>,Family {i % 5},Bird & {i}" for i in range(15)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(15):
        file = tmp_path / f"birds/bird{i}/1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20), (i, 0, 0)).save(file)
    (tmp_path / "birds/tree.csv").write_text(TREE)
    return tmp_path / "birds"


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return load_dataset(DataConfig("birds", "folder", str(folder), {"train": "."}, hierarchy="tree.csv"), "train")


@pytest.mark.parametrize("wording", sorted(load_wordings()))
def test_the_page_holds_every_prompt_of_every_image(dataset: Dataset, wording: str) -> None:
    prompter = Prompter.named(wording)
    html = page(dataset, prompter, count=12)
    texts = [unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)]
    for example in dataset.examples[:12]:
        questions = dataset.questions(example)
        truths = [question.truth or 0 for question in questions]
        prompts = [prompter.joint(questions)]
        prompts += [prompter.independent(questions, step) for step in range(3)]
        prompts += [prompter.conditioned(questions, step, truths) for step in range(3)]
        for prompt in prompts:
            assert all(message["content"][-1]["text"] in texts for message in prompt.messages)
            assert not prompt.primer or prompt.primer in texts


def test_the_page_is_whole_in_itself_and_every_image_has_a_text(dataset: Dataset) -> None:
    html = page(dataset, Prompter.named("plain"), count=4)
    images: list[dict[str, str | None]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found = dict(attrs)
            assert tag not in ("script", "link", "iframe")
            assert not found.get("href")
            if tag == "img":
                images.append(found)

    Reader().feed(html)
    assert len(images) == 4
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") and image["alt"] for image in images)
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert "Bird &amp; " in html
    assert "Order &lt;" in html
    assert html.count("✓ true") == 4 * 3


def test_an_image_that_does_not_decode_is_named(dataset: Dataset) -> None:
    bad = dataset.image_path(dataset.examples[0])
    bad.write_bytes(b"no image")
    with pytest.raises(SekdError, match=f"{bad.parent.name}/1.png does not decode"):
        page(dataset, Prompter.named("plain"), count=2)


def preview(*overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sekd.preview", *overrides], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    settings = ["data=folder", f"data.root={folder}", "data.hierarchy=tree.csv", "data.splits.train=.@0-80%"]
    result = preview(*settings, "count=3", f"out={out}")
    assert result.returncode == 0, result.stderr
    assert "3 of" in result.stdout
    assert out.read_text().count("<article>") == 3


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    result = preview("data=nowhere")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert all(name in result.stderr for name in ("nowhere", "inat", "cub", "demo"))


def test_an_absent_root_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    result = preview("data=cub", f"data.root={tmp_path}/none")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "data.root" in result.stderr


def test_without_labels_the_page_tells_the_cost_of_a_descent_and_shows_no_truth(folder: Path) -> None:
    config = DataConfig("mine", "photos", str(folder), {"train": "."}, hierarchy="tree.csv", questions="descent")
    html = page(load_dataset(config, "train"), Prompter.named("plain"), count=3)
    assert "No label is read" in html
    assert "✓ true" not in html
    assert "15 folders are called as nodes of the tree, like bird0" in html
    assert html.count("<article>") == 3
