import math
import random
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sekd.errors import SekdError
from sekd.evaluation.predict.narrowing import Answer, NarrowingStep, narrow, predict, roots_of
from sekd.inference.strategies import Answers, Subject
from sekd.questions import Question
from sekd.taxonomy import Taxonomy

SMALL = Taxonomy(
    [("life", a, f"{a}{b}", f"{a}{b}{c}") for a in "pq" for b in "xy" for c in "st"],
    skip=1,
    level_names=["kingdom", "order", "family", "species"],
)


def follow(taxonomy: Taxonomy, wanted: tuple[str, ...], *, most: int = 4, root: tuple[str, ...] = ("life",)) -> tuple:
    """Answer every question by the wanted path; where its node is not on offer, by the first option."""
    passes: list[NarrowingStep] = []
    narrowing = narrow(taxonomy, root=root, most=most, seed="image")
    try:
        asked = next(narrowing)
        while True:
            passes.append(asked)
            open_questions = asked.questions[len(asked.decided) :]
            asked = narrowing.send([_answer(question.options, wanted[question.depth]) for question in open_questions])
    except StopIteration as end:
        return (*end.value, passes)


def _answer(options: tuple[str, ...], name: str) -> Answer:
    return chosen(options, options.index(name) if name in options else 0)


def chosen(options: tuple[str, ...], option: int) -> Answer:
    return Answer(option, tuple(0.7 if i == option else 0.3 / (len(options) - 1) for i in range(len(options))))


@pytest.mark.parametrize("leaf", SMALL.leaves)
def test_a_tree_with_few_names_a_level_is_answered_in_one_pass(leaf: tuple[str, ...]) -> None:
    tree = Taxonomy([("life", a, b) for a in "pq" for b in "xy"], skip=1)
    levels, passes, asked = follow(tree, ("life", leaf[1], leaf[2][1]))
    assert [level.name for level in levels] == [leaf[1], leaf[2][1]]
    assert passes == 1
    assert [len(question.options) for question in asked[0].questions] == [2, 2]


@pytest.mark.parametrize("leaf", SMALL.leaves)
def test_every_leaf_is_reached_when_each_answer_is_right(leaf: tuple[str, ...]) -> None:
    levels, passes, asked = follow(SMALL, leaf)
    assert tuple(level.name for level in levels) == leaf[1:]
    assert passes == len(asked) <= 2


def test_a_node_with_more_children_than_letters_is_a_knock_out_that_the_right_one_wins() -> None:
    wide = Taxonomy([("life", f"species {i:02d}") for i in range(23)], skip=1)
    for wanted in (0, 11, 22):
        levels, passes, asked = follow(wide, ("life", f"species {wanted:02d}"))
        assert levels[0].name == f"species {wanted:02d}"
        assert passes <= -(-22 // 3)
        assert all(len(each.questions[0].options) <= 4 for each in asked)


def test_an_answer_that_is_no_child_of_its_parent_is_asked_again_among_the_children() -> None:
    narrowing = narrow(SMALL, root=("life",), most=4, seed="image")
    first = next(narrowing)
    order, family, species = first.questions
    inconsistent = [
        chosen(order.options, order.options.index("p")),
        chosen(family.options, family.options.index("qx")),
        chosen(species.options, 0),
    ]
    second = narrowing.send(inconsistent)
    assert second.decided == (order.options.index("p"),)
    assert second.questions[0] == order
    assert sorted(second.questions[1].options) == ["px", "py"]


def test_a_decided_answer_opens_the_next_pass() -> None:
    _, _, asked = follow(SMALL, ("life", "q", "qy", "qyt"))
    last = asked[-1]
    answered = [q.options[a] for q, a in zip(last.questions, last.decided, strict=False)]
    assert answered == ["q", "qy"][: len(answered)]


def test_an_only_child_needs_no_question() -> None:
    tree = Taxonomy([("life", "a", "aa", "aaa"), ("life", "b", "bb", "bbb")], skip=1)
    levels, passes, _ = follow(tree, ("life", "b", "bb", "bbb"))
    assert [level.name for level in levels] == ["b", "bb", "bbb"]
    assert passes == 1


def test_unequal_depths_end_where_the_leaf_ends() -> None:
    tree = Taxonomy([("food", "soup"), ("food", "bread", "rye"), ("food", "bread", "white")], skip=1)
    assert [level.name for level in follow(tree, ("food", "soup", "rye"), root=("food",))[0]] == ["soup"]
    assert [level.name for level in follow(tree, ("food", "bread", "rye"), root=("food",))[0]] == ["bread", "rye"]


def test_without_a_name_every_root_is_started_from() -> None:
    tree = Taxonomy([("fauna", "a"), ("fauna", "b"), ("flora", "c")], skip=1)
    assert roots_of(tree, None) == [("fauna",), ("flora",)]
    assert roots_of(tree, "Flora") == [("flora",)]
    with pytest.raises(SekdError, match="no such root, choose among fauna, flora"):
        roots_of(tree, "fungi")


class FirstOption:
    """Chooses the first option, with more certainty among the names before m."""

    def guided(self, subject: Subject, decided: Sequence[int]) -> Generator[Any, Any, Answers]:
        questions: Any = subject.questions[len(decided) :]
        return Answers((0,) * len(questions), questions)
        yield  # a conversation that asks nothing

    def letter_logprobs(self, question: Question, _: object) -> tuple[float, ...]:
        sure = 0.9 if question.options[0] < "m" else 0.6
        return (math.log(sure), *(math.log(1 - sure) for _ in question.options[1:]))


class Engine:
    def drive(self, conversations: Any) -> Generator[Any, None, None]:
        for conversation in conversations:
            try:
                next(conversation)
            except StopIteration as end:
                yield end.value


def test_of_several_roots_the_most_probable_path_is_kept_with_its_share() -> None:
    paths = [("flora", "x"), ("flora", "y"), ("fauna", "a"), ("fauna", "b")]
    tree = Taxonomy(paths, skip=1, level_names=["kingdom", "kind"])
    strategies: Any = FirstOption()
    [found] = predict(Engine(), strategies, [Path("one.jpg")], tree, roots=roots_of(tree, None), most=4)
    root, kind = found.levels
    assert (root.level, root.name, root.probability) == ("kingdom", "fauna", pytest.approx(0.9 / (0.9 + 0.6)))
    assert kind.name in ("a", "b")
    assert kind.probability == pytest.approx(0.9)
    assert found.passes == 2
    [alone] = predict(Engine(), strategies, [Path("one.jpg")], tree, roots=roots_of(tree, "flora"), most=4)
    assert [level.level for level in alone.levels] == ["kind"]


@pytest.mark.parametrize(("names", "most"), [(5, 4), (7, 2), (10, 4), (40, 4), (41, 3)])
def test_the_winner_of_a_knock_out_has_its_probability_among_all_candidates(names: int, most: int) -> None:
    """The model's scores are fixed, as those of a softmax are: one question of all candidates is the brute force."""
    wide = Taxonomy([("life", f"genus {i:02d}", f"species {i:02d}{x}") for i in range(names) for x in "ab"], skip=1)
    for draw in range(20):
        rng = random.Random(f"{names}/{draw}")
        score = {node[-1]: rng.gauss(0, 2) for depth in (1, 2) for node in wide.nodes(depth)}
        levels, passes = answered_by(wide, score, most=most, seed=str(draw))
        for level, depth in zip(levels, (1, 2), strict=True):
            above = ("life", *(each.name for each in levels[: depth - 1]))
            everyone = [node[-1] for node in wide.nodes(depth, above)]
            share = math.exp(score[level.name]) / sum(math.exp(score[name]) for name in everyone)
            assert level.name == max(everyone, key=score.__getitem__)
            assert level.probability == pytest.approx(share)
        assert passes >= (names - 1) // (most - 1)


def test_an_unknown_probability_stays_unknown_through_a_knock_out() -> None:
    wide = Taxonomy([("life", f"species {i}") for i in range(6)], skip=1)
    narrowing = narrow(wide, root=("life",), most=4, seed="image")
    asked = next(narrowing)
    asked = narrowing.send([Answer(1, (math.nan,) * 4)])
    with pytest.raises(StopIteration) as end:
        narrowing.send([chosen(asked.questions[0].options, 0)])
    [level], _ = end.value.value
    assert math.isnan(level.probability)


def answered_by(taxonomy: Taxonomy, score: dict[str, float], *, most: int, seed: str) -> tuple:
    """Levels and passes where every question is answered by the softmax over its options' scores."""
    narrowing = narrow(taxonomy, root=("life",), most=most, seed=seed)
    try:
        asked = next(narrowing)
        while True:
            answers = []
            for question in asked.questions[len(asked.decided) :]:
                weights = [math.exp(score[name]) for name in question.options]
                probabilities = tuple(weight / sum(weights) for weight in weights)
                answers.append(Answer(probabilities.index(max(probabilities)), probabilities))
            asked = narrowing.send(answers)
    except StopIteration as end:
        return end.value


def test_the_winner_so_far_is_always_on_offer_also_where_it_stands_last_among_the_candidates() -> None:
    """The first pass asks about families of all orders, so its winner may come after many that were not offered."""
    deep = Taxonomy([("life", f"order {i}", f"family {i}{x:02d}") for i in (0, 1) for x in range(10)], skip=1)
    for draw in range(20):
        rng = random.Random(draw)
        score = {node[-1]: rng.gauss(0, 1) for depth in (1, 2) for node in deep.nodes(depth)}
        (order, family), _ = answered_by(deep, score, most=4, seed=str(draw))
        everyone = [node[-1] for node in deep.nodes(2, ("life", order.name))]
        share = math.exp(score[family.name]) / sum(math.exp(score[name]) for name in everyone)
        assert family.name == max(everyone, key=score.__getitem__)
        assert family.probability == pytest.approx(share)
