"""Naming one's own images: paths by descent, cut where they are not sure, as rows of a table."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sekd.errors import SekdError
from sekd.evaluation.predict import Prediction, find_images, main, predict, roots_of, table, write
from sekd.inference.requests import StepRequest, UnreadableImageError
from sekd.inference.strategies import Strategies
from sekd.prompts import Prompter
from sekd.taxonomy import Taxonomy

TREE = Taxonomy(
    [("life", a, f"{a}{b}", f"{a}{b}{c}") for a in "pq" for b in "xy" for c in "st"],
    skip=1,
    level_names=["kingdom", "order", "family", "species"],
)


class Tokenizer:
    """A token a word, and no model behind it."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.words.setdefault(word, len(self.words)) for word in text.split()]}


class Processor:
    chat_template = "plain"
    tokenizer = Tokenizer()

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        return "".join(f"{part['text']}\n" for m in messages for part in m["content"] if part["type"] == "text")


def strategies() -> Strategies:
    return Strategies(Prompter.named("taxonomist"), Processor(), topk=26)


class Result:
    def __init__(self, ids: list[int], probabilities: list[float]) -> None:
        order = np.argsort(probabilities)[::-1]
        self.topk_ids_by_token = np.array(ids)[None, order]
        self.topk_logprobs_by_token = np.log(np.array(probabilities))[None, order]


def answered(conversation: Any, sure: dict[str, float], asked: list[str] | None = None) -> list[Prediction]:
    """Run a conversation. An option in ``sure`` has its probability, its siblings share the rest."""
    reply = None
    try:
        while True:
            requests: list[StepRequest] = conversation.send(reply)
            reply = []
            for request in requests:
                if asked is not None:
                    asked.append(request.prompt_text)
                names = re.findall(r"[A-Z]\. (\w+)", request.prompt_text.split("belong to? ")[1])
                assert request.letter_ids is not None
                reply.append(Result(list(request.letter_ids), [weight(name, names, sure) for name in names]))
    except StopIteration as end:
        return end.value


def weight(name: str, names: list[str], sure: dict[str, float]) -> float:
    siblings = [each for each in names if each[:-1] == name[:-1]]
    known = next((each for each in siblings if each in sure), None)
    if known is None:
        return 1e-9  # a name from elsewhere
    return sure[name] if name == known else (1 - sure[known]) / (len(siblings) - 1)


def run(sure: dict[str, float], tree: Taxonomy = TREE, asked: list[str] | None = None, **settings: Any) -> Any:
    settings = {"roots": roots_of(tree, None), "options": 4, "beam": 3} | settings
    return answered(predict(strategies(), tree, Path("one.jpg"), **settings), sure, asked)


SURE = {"q": 0.9, "qx": 0.8, "qxt": 0.6}


def test_an_image_is_given_the_most_probable_path_with_a_probability_a_level() -> None:
    [found] = run(SURE)
    assert [(level.level, level.name) for level in found.levels] == [
        ("order", "q"),
        ("family", "qx"),
        ("species", "qxt"),
    ]
    assert [level.probability for level in found.levels] == pytest.approx([0.9, 0.8, 0.6])
    assert found.probability == pytest.approx(0.9 * 0.8 * 0.6)
    assert (found.root, found.rank) == ("life", 1)
    assert found.questions == 1 + 2 + 3


def test_the_next_best_paths_follow_by_rank() -> None:
    found = run(SURE, beam=4, top=3)
    assert [path.rank for path in found] == [1, 2, 3]
    assert [path.levels[-1].name for path in found][:2] == ["qxt", "qxs"]
    assert [path.probability for path in found] == sorted((path.probability for path in found), reverse=True)


@pytest.mark.parametrize(("stop", "names"), [(0.0, ["q", "qx", "qxt"]), (0.5, ["q", "qx"]), (0.75, ["q"])])
def test_a_path_stops_where_its_probability_falls_below_the_threshold(stop: float, names: list[str]) -> None:
    [found] = run(SURE, stop=stop)
    assert [level.name for level in found.levels] == names


def test_an_image_of_which_not_even_the_first_level_is_sure_is_outside_the_tree() -> None:
    [found] = run(SURE, stop=0.95)
    assert found.levels == ()
    assert found.fault == "outside the tree: the first answer is less probable than 0.95"


def test_cut_paths_that_agree_are_told_once() -> None:
    found = run(SURE, beam=4, top=3, stop=0.5)
    assert [[level.name for level in path.levels] for path in found] == [["q", "qx"]]
    assert [path.rank for path in found] == [1]


def test_a_node_with_one_child_is_no_answer_that_keeps_a_path() -> None:
    tree = Taxonomy([("life", "ab"), ("life", "ac")])
    [found] = run({"ab": 0.6}, tree, stop=0.9)
    assert found.fault.startswith("outside the tree")


def test_each_question_is_asked_with_the_answers_above_it() -> None:
    asked: list[str] = []
    run(SURE, asked=asked, beam=1)
    assert ["Known facts:" in prompt for prompt in asked] == [False, True, True]
    assert "order: q\nfamily: qx" in asked[2]


def test_without_a_name_every_root_is_started_from_and_the_surest_path_is_kept() -> None:
    tree = Taxonomy([("fauna", "ab"), ("fauna", "ac"), ("flora", "xy"), ("flora", "xz")], skip=1)
    assert roots_of(tree, "Flora") == [("flora",)]
    with pytest.raises(SekdError, match="no such root, choose among fauna, flora"):
        roots_of(tree, "fungi")
    [found] = run({"ac": 0.6, "xy": 0.8}, tree)
    assert (found.root, found.levels[0].name) == ("flora", "xy")
    [below] = run({"ac": 0.6, "xy": 0.8}, tree, roots=roots_of(tree, "fauna"))
    assert (below.root, below.levels[0].name) == ("fauna", "ac")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--taxonomy", "chain.csv"], "the taxonomy has no node with several children"),
        (["--taxonomy", "chain.csv", "--skip", "1"], "the taxonomy has no node with several children"),
        (["--taxonomy", "tree.csv", "--root", "flora"], "--root flora: the taxonomy skips no level"),
        (["--taxonomy", "demo", "--skip", "1"], "--skip and --levels describe a file of --taxonomy"),
        (["--taxonomy", "demo", "--levels", "order,family"], "--skip and --levels describe a file of --taxonomy"),
        (["--taxonomy", "tree.csv", "--out", "none/names.csv"], "--out none/names.csv: there is no folder none"),
    ],
)
def test_what_cannot_be_asked_or_written_is_refused_before_an_engine_starts(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.jpg").touch()
    Path("chain.csv").write_text("key,order,family\nab,a,b\n")
    Path("tree.csv").write_text("key,order,family\nab,a,b\nac,a,c\n")
    monkeypatch.setattr("sekd.evaluation.predict.require_vllm", lambda: pytest.fail("an engine would start"))
    monkeypatch.setattr("sys.argv", ["predict", "one.jpg", "--model", "tiny", *words])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_a_row_with_its_fault() -> None:
    conversation = predict(strategies(), TREE, Path("bad.jpg"), roots=roots_of(TREE, None), options=4, beam=1)
    next(conversation)
    with pytest.raises(StopIteration) as end:
        conversation.throw(UnreadableImageError(Path("bad.jpg"), OSError("truncated")))
    [found] = end.value.value
    assert "bad.jpg: truncated" in found.fault


def test_the_table_has_the_same_columns_for_every_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = [*run(SURE, top=2), Prediction(Path("bad.jpg"), fault="no image")]
    rows = table(predictions)
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert rows[0]["species"] == "qxt"
    assert rows[0]["species_probability"] == pytest.approx(0.6)
    assert rows[2]["fault"] == "no image"
    write(predictions, tmp_path / "names.csv")
    assert (tmp_path / "names.csv").read_text().count("\n") == 4
    write(predictions, None)
    said = capsys.readouterr()
    assert "one.jpg: life > q (90 %) > qx (80 %) > qxt (60 %)" in said.out
    assert "bad.jpg: no image" in said.err


def test_images_are_the_files_given_and_those_in_the_folders_given(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.PNG", "a/notes.txt", "a/.hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path / "a", tmp_path / "b.jpg"]) == [tmp_path / "a/c.PNG", tmp_path / "b.jpg"]
    assert find_images([tmp_path / "b.jpg", tmp_path]) == [tmp_path / "b.jpg", tmp_path / "a/c.PNG"]
    with pytest.raises(SekdError, match="does not exist"):
        find_images([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SekdError, match="no image found"):
        find_images([tmp_path / "empty"])
