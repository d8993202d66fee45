import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from synthetic import write_run

from sekd.evaluation.general.outcome import Outcome, write_outcomes
from sekd.evaluation.generations import list_cells, read_cell, write_part
from sekd.evaluation.report.build import write_report
from sekd.evaluation.report.charts import Axis, Series, line_panel
from sekd.evaluation.report.svg import ticks
from sekd.evaluation.scores import Bootstrap, read_run, score_run
from sekd.evaluation.students import find_students
from sekd.evaluation.table import print_table

QUICK = Bootstrap(resamples=200)
VOID = {"meta", "link", "img", "br"}


class Checked(HTMLParser):
    """Collects what the tests look at, and refuses tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.images: list[dict] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.references += (attributes.get("aria-labelledby") or "").split()
        if tag == "img":
            self.images.append(attributes)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder, students=("student", "hard"))
    write_log(folder / "seed0")
    write_report(folder, bootstrap=QUICK)
    return folder


def write_log(training: Path) -> None:
    (training / "logs" / "version_0").mkdir(parents=True)
    rows = [f"{step},{1 / (step + 1)},{0.5 / (step + 1)}" for step in range(300)]
    (training / "logs" / "version_0" / "metrics.csv").write_text("\n".join(["step,train/loss,train/hard", *rows]))
    (training / "adapter").mkdir()
    (training / "adapter" / "adapter_config.json").write_text("{}")
    (training / "config.yaml").write_text("fingerprint: 0123456789abcdef\nloss:\n  hard:\n    weight: 1.0\n")


@pytest.fixture(scope="module")
def page(run: Path) -> Checked:
    checked = Checked()
    checked.feed((run / "report.html").read_text())
    return checked


def test_the_page_nests_and_its_references_resolve(page: Checked) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_page_asks_the_network_for_nothing(page: Checked, run: Path) -> None:
    assert all(link.startswith(("#", "data:")) for link in page.links)
    text = (run / "report.html").read_text()
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert "script" not in page.tags


def test_every_picture_has_words(page: Checked, run: Path) -> None:
    assert page.images
    assert all("species" in image["alt"] for image in page.images)
    for drawing in re.findall(r"<svg[^>]*class=\"plot\".*?</svg>", (run / "report.html").read_text(), re.DOTALL):
        tree = ElementTree.fromstring(drawing)
        assert tree.find("title").text  # type: ignore[union-attr]
        assert len(tree.find("desc").text or "") > 20  # type: ignore[union-attr]


def test_right_and_wrong_are_said_in_words_and_shapes(run: Path) -> None:
    text = (run / "report.html").read_text()
    wrong, right = text.count('class="wrong"'), text.count('class="right"')
    assert wrong
    assert right
    assert text.count('href="#strike"') == text.count(">wrong<") == wrong
    assert text.count('href="#tick"') == text.count(">right<") == right


def test_html_markdown_and_json_tell_the_same_scores(run: Path) -> None:
    scores = score_run(read_run(run), bootstrap=QUICK)
    told = json.loads((run / "report.json").read_text())
    rows = told["sections"]["headline"]["tables"][-1]["rows"]
    by_name = {(tree, name): value for tree, name, _, value, *_ in rows}
    assert by_name["in-domain", "student, one pass"] == pytest.approx(scores["in_domain"]["student"]["joint"]["hca"])
    for value in by_name.values():
        assert f"{value:.1f}" in (run / "report.html").read_text()
        assert f"{value:.1f}" in (run / "report.md").read_text()


def test_every_promised_section_is_there(run: Path) -> None:
    told = json.loads((run / "report.json").read_text())
    scored = ["headline", "arms", "depth", "cases", "metrics", "cost", "mistakes", "calibration"]
    assert list(told["sections"]) == [*scored, "training", "provenance"]
    assert "minus student, points" in told["sections"]["arms"]["tables"][0]["columns"]
    provenance = json.dumps(told["sections"]["provenance"])
    assert "0123456789abcdef" in provenance


def test_what_was_forgotten_is_a_section_once_it_was_measured(tmp_path: Path) -> None:
    write_run(tmp_path, n=10)
    bounded = Outcome("captions", "words right, %", 99.0, 97.5, -1.5, -2.5, -0.5, 400)
    write_outcomes(tmp_path, [bounded, Outcome("mme", "mme_perception_score", 1500.0, 1490.0, -10.0, None, None, None)])
    write_report(tmp_path, bootstrap=QUICK)
    told = json.loads((tmp_path / "report.json").read_text())["sections"]["skills"]
    assert [row[0] for row in told["tables"][0]["rows"]] == ["captions", "mme"]
    drawn = (tmp_path / "report.html").read_text()
    assert "captions: -1.5." in drawn, "only what has an interval is drawn"


def test_a_missing_image_is_told_in_its_place(tmp_path: Path) -> None:
    write_run(tmp_path, n=30, images=False)
    write_report(tmp_path, bootstrap=QUICK)
    text = (tmp_path / "report.html").read_text()
    assert "<img" not in text
    assert "was not found below" in text


def test_a_report_without_truth_has_no_scores_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, n=20, known=False)
    write_report(tmp_path, bootstrap=QUICK)
    told = json.loads((tmp_path / "report.json").read_text())
    assert "nothing to score" in told["summary"]
    assert "cases" not in told["sections"]
    assert "not scored" in (tmp_path / "report.html").read_text()


def test_answers_without_a_confidence_are_said_where_their_panel_would_be(tmp_path: Path) -> None:
    [joint, *others] = write_run(tmp_path, n=10, seeds=1, trees=("demo",))
    folder = tmp_path / "generations" / joint.folder
    _, generations = read_cell(folder)
    silent = replace(joint, digest="silent")
    bare = [replace(each, letter_logprobs=((),) * len(each.questions)) for each in generations]
    write_part(tmp_path / "generations" / silent.folder, silent, bare)
    list_cells(tmp_path, [silent, *others], {"demo": [each.key for each in generations]})
    write_report(tmp_path, bootstrap=QUICK)
    told = json.loads((tmp_path / "report.json").read_text())["sections"]["calibration"]
    assert "base, joint, one pass on demo (36 answers without it, 4 unread)" in " ".join(told["text"])
    assert (
        score_run(read_run(tmp_path), bootstrap=QUICK)["in_domain"]["base"]["joint"]["answers_without_confidence"] == 36
    )
    assert ["base, joint, one pass", None, 0, 36, 4] in told["tables"][0]["rows"]


def test_the_table_on_the_terminal_shows_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path, n=10, trees=("demo", "birds[old] :bug: x[/1]"), students=("student", "w[bold]=1"))
    print_table(score_run(read_run(tmp_path), bootstrap=QUICK))
    told = capsys.readouterr().out
    assert "birds[old] :bug: x[/1]" in told
    assert "w[bold]=1 joint" in told


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path, n=10, trees=("<script>alert(1)</script>",))
    write_report(tmp_path, bootstrap=QUICK)
    text = (tmp_path / "report.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_training_that_was_repeated_elsewhere_counts_once(tmp_path: Path) -> None:
    for place, settings in ((".", "a" * 16), ("seed0", "a" * 16), ("seed1", "b" * 16)):
        (tmp_path / place / "adapter").mkdir(parents=True)
        (tmp_path / place / "adapter" / "adapter_config.json").write_text("{}")
        (tmp_path / place / "metrics.json").write_text(json.dumps({"settings": settings}))
    assert [student.seed for student in find_students(tmp_path)] == ["seed0", "seed1"]


def test_students_are_told_by_folder(tmp_path: Path) -> None:
    for name in ("adapter", "seed1/adapter", "hard/seed0/adapter", "hard/seed1/adapter", "w=0.5/adapter"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text("{}")
    found = [(student.name, student.seed) for student in find_students(tmp_path)]
    assert found == [("student", ""), ("student", "seed1"), ("hard", "seed0"), ("hard", "seed1"), ("w=0.5", "")]


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0, 1), (0.0, 0.037), (0, 187), (0, 1.05), (-3, 12)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 3 <= len(marks) <= 9
    assert low <= marks[0] < marks[-1] <= high + 1e-9
    steps = np.diff(marks)
    assert np.allclose(steps, steps[0])


def test_a_gap_in_a_series_is_left_out_not_drawn_as_zero() -> None:
    drawn = line_panel(
        key="k",
        title="t",
        description="d",
        x=Axis("x", 0, 2),
        y=Axis("y", 0, 100),
        series=[Series("s", (0, 1, 2), (50.0, None, 50.0), 0)],
    )
    tree = ElementTree.fromstring(drawn)
    assert len(tree.findall(".//circle")) == 2
