import html
import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from synthetic import answer, generation, questions, write_run

from sekd.errors import SekdError
from sekd.evaluation.general.outcome import Outcome, write_outcomes
from sekd.evaluation.generations import list_cells, read_cell, write_part
from sekd.evaluation.report.__main__ import write_report
from sekd.evaluation.report.plots import Interval, Line, intervals, lines, svg
from sekd.evaluation.rescore import read_scores, write_scores
from sekd.evaluation.scores import Bootstrap
from sekd.evaluation.students import find_students
from sekd.evaluation.table import print_table

ROOT = Path(__file__).parents[2]
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


def report(run: Path) -> dict:
    """Score the run and write its report; the scores."""
    scores = write_scores(run, bootstrap=QUICK)
    write_report(run)
    return scores


def tables(run: Path) -> dict[str, list[list[str]]]:
    """The Markdown report's tables by title: a list of rows, the columns' names first."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in (run / "report.md").read_text().splitlines():
        if line.startswith("**"):
            title = line.strip("*")
        elif line.startswith("| "):
            found.setdefault(title, []).append([value.strip() for value in line.strip("|").split("|")])
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder, students=("student", "hard"))
    write_log(folder / "seed0")
    report(folder)
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
    plots = plots_of(run)
    assert len(plots) == 7  # headline, ablation, a tree's depth and calibration twice each, training curves
    for plot in plots:
        assert plot.get("role") == "img"
        assert len(plot.get("aria-label") or "") > 20


def test_plots_take_the_page_s_colours_so_that_they_can_be_read_on_dark_paper(run: Path) -> None:
    style = (run / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    for plot in plots_of(run):
        drawn = ElementTree.tostring(plot, encoding="unicode")
        assert not re.findall(r"(?:fill|stroke): #", drawn), "a colour of its own"
        for name in set(re.findall(r"var\(--(\w+)\)", drawn)):
            assert len(re.findall(rf"--{name}: #", style)) == 2, "light and dark"


def plots_of(run: Path) -> list[ElementTree.Element]:
    page = (run / "report.html").read_text()
    return [ElementTree.fromstring(plot) for plot in re.findall(r"<svg class=\"plot\".*?</svg>", page, re.DOTALL)]


def test_right_and_wrong_are_said_in_words_and_shapes(run: Path) -> None:
    text = (run / "report.html").read_text()
    wrong, right = text.count('class="wrong"'), text.count('class="right"')
    assert wrong
    assert right
    assert text.count('href="#strike"') == text.count(">wrong<") == wrong
    assert text.count('href="#tick"') == text.count(">right<") == right


def test_html_and_markdown_tell_the_same_scores(run: Path) -> None:
    cells = read_scores(run)["in_domain"]
    told = {tuple(row[:2]): row[3] for row in tables(run)["Whole paths right by way of asking"]}
    assert told["in-domain", "student, one pass"] == f"{cells['student']['joint']['hca']:.1f}"
    assert told["in-domain", "base, conditioned steps"] == f"{cells['base']['conditioned']['hca']:.1f}"
    page = (run / "report.html").read_text()
    for rows in tables(run).values():
        for value in (value for row in rows for value in row):
            assert html.escape(value, quote=False).replace("'", "&#39;").replace('"', "&#34;") in page


def test_every_number_is_that_of_the_scores_file(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    scores = read_scores(run)
    student = scores["in_domain"]["student"]["joint"]
    student["spread"] |= {"mta": 0.3, "invalid_edges": 0.4}
    student |= {"hca": 12.34, "mta": 76.54, "invalid_edges": 1.23}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    write_report(tmp_path)
    told = {tuple(row[:2]): row[3] for row in tables(tmp_path)["Whole paths right by way of asking"]}
    assert told["in-domain", "student, one pass"] == "12.3"
    columns, base, *_, row, _ = tables(tmp_path)["All metrics, in-domain"]
    assert columns[-2:] == ["MTA %", "invalid edges %"]
    assert row[-2:] == ["76.5\u00a0±\u00a00.3", "1.2\u00a0±\u00a00.4"]
    assert base[-1] == "–", "this run keeps no tree"


def test_scores_of_an_earlier_version_are_to_be_written_again(tmp_path: Path) -> None:
    write_run(tmp_path, n=10, seeds=1, trees=("demo",), images=False)
    again = re.escape(f"python -m sekd.evaluation.rescore {tmp_path}")
    with pytest.raises(SekdError, match=f"missing: `{again}"):
        write_report(tmp_path)
    scores = write_scores(tmp_path, bootstrap=QUICK)
    for newer in ("mta", "calibration"):
        del scores["in_domain"]["base"]["joint"][newer]
        (tmp_path / "scores.json").write_text(json.dumps(scores))
        with pytest.raises(SekdError, match=f"earlier version.*{again}"):
            write_report(tmp_path)
        scores = write_scores(tmp_path, bootstrap=QUICK)
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(SekdError, match=f"does not hold scores.*{again}"):
        write_report(tmp_path)


def test_every_promised_section_is_there(run: Path, page: Checked) -> None:
    scored = ["headline", "arms", "depth", "cases", "metrics", "cost", "mistakes", "calibration"]
    sections = [link.removeprefix("#") for link in page.links if link.startswith("#")][1:]
    assert sections[:9] == [*scored, "training"]
    told = tables(run)
    assert "minus student, points" in told["Students side by side, in one pass"][0]
    assert [row[:2] for row in told["Training curves, first and last logged values"][1:]] == [
        ["train/loss", "student seed0"],
        ["train/hard", "student seed0"],
    ]


def test_images_that_were_repaired_are_counted_and_shown_with_all_answers(run: Path) -> None:
    [_, _, row] = tables(run)["What became of the base's one-pass answers, images"]
    kinds = read_scores(run)["unseen"]["demo_moth"]["student"]["joint"]["from_base_joint"]
    assert row == ["unseen: demo_moth", *(str(kind["n"]) for kind in kinds.values())]
    assert sum(kind["n"] for kind in kinds.values()) == 60
    example = kinds["repaired"]["examples"][0]
    assert example["answers"]["student"]["joint"] == example["true"] != example["answers"]["base"]["joint"]
    text = (run / "report.md").read_text()
    case = text.split(f"**unseen: demo_moth: repaired ({example['sample']})**")[1].split("**")[0]
    assert f"- True path: {' > '.join(example['true'])}\n" in case
    assert f"- student, one pass: {' > '.join(example['true'])}\n" in case
    assert "(wrong)" in case.split("- base, joint, one pass: ")[1].split("\n")[0]


def test_the_prefix_intervention_is_a_section_once_it_was_asked(tmp_path: Path) -> None:
    write_prefixes(tmp_path)
    scores = report(tmp_path)["in_domain"]["student"]
    drop, gain = scores["guided"]["minus_wrong_prefix"]["leaf"], scores["true_prefix"]["minus_guided"]["leaf"]
    assert drop["value"] == pytest.approx(scores["guided"]["leaf"] - scores["wrong_prefix"]["leaf"])
    assert gain["value"] == pytest.approx(scores["true_prefix"]["leaf"] - scores["guided"]["leaf"])
    assert drop["low"] < drop["value"] < drop["high"]
    [_, row] = tables(tmp_path)["Leaf accuracy by the answers before it"]
    assert row == ["in-domain", "student", *(shown(each[k]) for each in (drop, gain) for k in ("value", "low", "high"))]
    levels = tables(tmp_path)["Accuracy by the answers before, student on in-domain"]
    assert levels[0] == ["level", "after its own answers %", "after true answers %", "after wrong answers %"]
    assert [row[3] for row in levels[1:]] == [f"{e['accuracy']:.1f}" for e in scores["wrong_prefix"]["per_level"]]
    text = (tmp_path / "report.md").read_text()
    assert "## Is it state?" in text
    assert f"student uses its earlier answers: wrong ones cost it {drop['value']:.1f} points" in text


def shown(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def write_prefixes(run: Path) -> None:
    """A student that is right at 90 % after its own, 95 % after true and 30 % after wrong answers."""
    cells = write_run(run, seeds=1, trees=("demo",))
    rates = {"guided": 0.9, "true_prefix": 0.95, "wrong_prefix": 0.3}
    for number, (prefix, rate) in enumerate(rates.items()):
        cell = replace(cells[-1], paradigm=prefix, digest=prefix)
        rng = np.random.default_rng(number)
        asked = [(f"s{i:04d}", questions(np.random.default_rng([i, 4]))) for i in range(60)]
        rows = [
            generation(sample, each, [answer(rng, q, rate) for q in each], paradigm=prefix) for sample, each in asked
        ]
        write_part(run / "generations" / cell.folder, cell, rows)
        cells.append(cell)
    list_cells(run, cells, {"demo": [f"s{i:04d}" for i in range(60)]})


def test_what_was_forgotten_is_a_section_once_it_was_measured(tmp_path: Path) -> None:
    write_run(tmp_path, n=10)
    bounded = Outcome("captions", "words right, %", 99.0, 97.5, -1.5, -2.5, -0.5, 400)
    write_outcomes(tmp_path, [bounded, Outcome("mme", "mme_perception_score", 1500.0, 1490.0, -10.0, None, None, None)])
    report(tmp_path)
    rows = tables(tmp_path)["Other skills before and after"]
    assert [row[0] for row in rows[1:]] == ["captions", "mme"]
    [drawn] = [plot for plot in plots_of(tmp_path) if "Other skills" in (plot.get("aria-label") or "")]
    words = " ".join(drawn.itertext())
    assert "captions" in words
    assert "-1.5" in words
    assert "mme" not in words, "only what has an interval is drawn"


def test_a_missing_image_is_told_in_its_place(tmp_path: Path) -> None:
    write_run(tmp_path, n=30, images=False)
    report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<img" not in text
    assert "was not found below" in text


def test_a_report_without_truth_has_no_scores_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, n=20, known=False)
    report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "nothing to score" in text
    assert "## Failure and repair" not in text
    assert "not scored" in (tmp_path / "report.html").read_text()


def test_answers_without_a_confidence_are_said_where_their_panel_would_be(tmp_path: Path) -> None:
    [joint, *others] = write_run(tmp_path, n=10, seeds=1, trees=("demo",))
    folder = tmp_path / "generations" / joint.folder
    _, generations = read_cell(folder)
    silent = replace(joint, digest="silent")
    bare = [replace(each, letter_logprobs=((),) * len(each.questions)) for each in generations]
    write_part(tmp_path / "generations" / silent.folder, silent, bare)
    list_cells(tmp_path, [silent, *others], {"demo": [each.key for each in generations]})
    scores = report(tmp_path)
    assert scores["in_domain"]["base"]["joint"]["answers_without_confidence"] == 36
    assert ["base, joint, one pass", "–", "0", "36", "4"] in tables(tmp_path)[
        "Reliability of the answer letter, in-domain"
    ]


def test_the_table_on_the_terminal_shows_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path, n=10, trees=("demo", "birds[old] :bug: x[/1]"), students=("student", "w[bold]=1"))
    print_table(write_scores(tmp_path, bootstrap=QUICK))
    told = capsys.readouterr().out
    assert "birds[old] :bug: x[/1]" in told
    assert "w[bold]=1 joint" in told


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path, n=10, trees=("demo", "<script>alert(1)</script>"))
    report(tmp_path)
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


def test_the_documents_figures_are_drawn_from_a_run_s_scores(run: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "tools.figures", run, "--out", tmp_path], cwd=ROOT, check=True)
    sizes = {file.name: Image.open(file).size for file in tmp_path.iterdir()}
    assert sizes["world.png"] == Image.open(ROOT / "docs" / "world.png").size
    assert sizes["results.png"][0] > 1000


def test_a_gap_in_a_line_is_left_out_not_drawn_as_zero() -> None:
    drawn = lines({"t": [Line("s", (0, 1, 2), (50.0, None, 50.0), 0)]}, "x", "y", limits=(0, 100))
    tree = ElementTree.fromstring(svg(drawn, "t"))
    marks = [use for use in tree.iter("{http://www.w3.org/2000/svg}use") if use.get("x")]
    assert len({use.get("y") for use in marks}) == 1 + 1, "the line's two marks, and that of the legend"


def test_what_was_not_scored_is_a_row_that_says_so_and_a_dollar_sign_stays_one() -> None:
    rows = [Interval("a $x$ <b>", None, None, None, 0), Interval("c", 50.0, 50.1, 60.0, 1)]
    words = list(ElementTree.fromstring(svg(intervals({"t": rows}, "x", limits=(0, 100)), "t")).itertext())
    assert {"a $x$ <b>", "not scored", "50.0"} <= set(words)


def test_a_panel_without_rows_and_letters_that_the_font_lacks_are_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panels = {"empty": [], "t": [Interval("鸟", 50.0, None, None, 2)]}
        assert "鸟" in svg(intervals(panels, "x", limits=(0, 100)), "t")
