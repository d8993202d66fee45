"""A descent finds an image's path without a label; probabilities are compared with those of a plain product."""

import math
import random
from collections.abc import Callable, Sequence

import pytest

from sekd.descent import Found, OpenQuestion, count_calls, descend
from sekd.taxonomy import Names, Taxonomy, fold

Scores = dict[Names, float]


def tree(rng: random.Random, *, leaves: int = 40, depth: int = 4, width: int = 7) -> Taxonomy:
    """A tree of unequal depth."""
    paths = {
        tuple(f"{level}{rng.randrange(width)}" for level in range(rng.randrange(1, depth + 1))) for _ in range(leaves)
    }
    whole = [path for path in paths if not any(other[: len(path)] == path and other != path for other in paths)]
    return Taxonomy(whole)


def softmax(scores: Sequence[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def fixed(scores: Scores) -> Callable[[OpenQuestion], list[float]]:
    """A model whose every node has a score: it chooses by a softmax over those on offer, names from elsewhere too."""
    return lambda asked: softmax([scores.get((*asked.path.node, name), 1.0) for name in asked.question.options])


def run(taxonomy: Taxonomy, model: Callable[[OpenQuestion], Sequence[float]], **settings) -> Found:
    descent = descend(taxonomy, **{"roots": [()], "options": 4, "beam": 1, "seed": "image"} | settings)
    try:
        asked = next(descent)
        while True:
            asked = descent.send([model(question) for question in asked])
    except StopIteration as end:
        return end.value


def all_nodes(taxonomy: Taxonomy) -> list[Names]:
    return [node for depth in range(taxonomy.depth) for node in taxonomy.nodes(depth)]


def brute_force(taxonomy: Taxonomy, scores: Scores) -> dict[Names, float]:
    """Each leaf's probability: at every node a softmax over all of its children."""
    probability = {}
    for leaf in taxonomy.leaves:
        probability[leaf] = 1.0
        for depth in range(len(leaf)):
            siblings = taxonomy.children(leaf[:depth])
            probability[leaf] *= softmax([scores[node] for node in siblings])[siblings.index(leaf[: depth + 1])]
    return probability


@pytest.mark.parametrize("options", [2, 3, 4, 26])
@pytest.mark.parametrize("seed", range(5))
def test_with_a_wide_beam_every_leaf_has_the_probability_of_a_softmax_over_all_children(options: int, seed: int):
    rng = random.Random(seed)
    taxonomy = tree(rng)
    scores = {node: rng.gauss(0, 2) for node in all_nodes(taxonomy)}
    found = run(taxonomy, fixed(scores), options=options, beam=1000)
    expected = brute_force(taxonomy, scores)
    assert {path.node: math.exp(path.logprob) for path in found.paths} == pytest.approx(expected, rel=1e-9)
    assert found.paths[0].node == max(expected, key=expected.__getitem__)


def test_a_beam_finds_the_most_probable_path_where_greedy_takes_a_wrong_first_step():
    taxonomy = Taxonomy([("sure", "one"), ("sure", "two"), ("sure", "three"), ("torn", "four")])
    scores = dict.fromkeys(all_nodes(taxonomy), 0.0) | {("sure",): 0.1}
    assert run(taxonomy, fixed(scores), beam=1).paths[0].node[0] == "sure"
    assert run(taxonomy, fixed(scores), beam=2).paths[0].node == ("torn", "four")


def test_a_child_that_loses_its_heat_narrowly_stays_in_the_beam():
    taxonomy = Taxonomy([(name,) for name in "abcdefgh"])
    scores = {(name,): 0.0 for name in "abcdefgh"} | {("a",): 5.0, ("b",): 4.9}
    for seed in map(str, range(10)):  # in some of these the two meet in their first heat
        found = run(taxonomy, fixed(scores), options=4, beam=2, seed=seed)
        assert [path.node for path in found.paths] == [("a",), ("b",)]


def test_the_questions_on_the_way_are_about_the_path_and_hold_its_nodes():
    rng = random.Random(3)
    taxonomy = tree(rng)
    scores = {node: rng.gauss(0, 2) for node in all_nodes(taxonomy)}
    for path in run(taxonomy, fixed(scores), options=3, beam=5).paths:
        for question, answer in zip(path.questions, path.answers, strict=True):
            assert question.options[answer] == path.node[question.depth]
            assert question.truth is None
        asked = {question.depth for question in path.questions}
        assert asked == {d for d in range(len(path.node)) if len(taxonomy.children(path.node[:d])) > 1}


def test_a_node_with_one_child_is_passed_without_a_question():
    tree = Taxonomy([("root", "only", "left"), ("root", "only", "right")])
    found = run(tree, lambda asked: [{"left": 0.7, "right": 0.3}[name] for name in asked.question.options])
    assert found.calls == 1
    assert len(found.paths[0].node) == 3
    assert math.exp(found.paths[0].logprob) == pytest.approx(0.7)


def test_no_question_has_more_options_than_allowed_and_all_of_a_round_are_asked_at_once():
    taxonomy = Taxonomy([(f"name {number}",) for number in range(37)])
    rounds = []

    def model(asked: OpenQuestion) -> list[float]:
        return softmax([0.0] * len(asked.question.options))

    descent = descend(taxonomy, roots=[()], options=4, beam=1, seed="image")
    try:
        asked = next(descent)
        while True:
            rounds.append([len(question.question.options) for question in asked])
            asked = descent.send([model(question) for question in asked])
    except StopIteration:
        pass
    assert [len(sizes) for sizes in rounds] == [10, 3, 1]
    assert max(map(max, rounds)) == 4
    assert min(map(min, rounds)) >= 2


def test_a_question_with_room_is_filled_with_other_names_of_the_level_that_do_not_count():
    taxonomy = Taxonomy([("a", "b"), ("a", "c"), ("d", "e"), ("d", "f"), ("d", "g"), ("h", "i")])
    asked = {}

    def model(question: OpenQuestion) -> list[float]:
        asked[question.path.node] = question.question.options
        return [0.1 if name in "bcadh" else 0.3 for name in question.question.options]

    found = run(taxonomy, model, beam=3)
    assert set(asked[()]) == {"a", "d", "h"}  # the level has no other name
    assert len(asked["a",]) == 4
    assert {"b", "c"} < set(asked["a",]) <= set("bcefgi")
    below_a = [math.exp(path.logprob) for path in found.paths if path.node[0] == "a"]
    assert below_a == pytest.approx([1 / 3 * 0.1 / 0.2] * len(below_a))


@pytest.mark.parametrize("beam", [1, 3])
def test_the_calls_told_beforehand_are_those_that_are_made(beam: int):
    taxonomy = Taxonomy([(a, b, c) for a in "abcde" for b in "fghijkl" for c in "mno"])
    told = count_calls(taxonomy, roots=[()], options=4, beam=beam)
    found = run(taxonomy, lambda asked: softmax([0.0] * len(asked.question.options)), beam=beam)
    assert found.calls == told.most == pytest.approx(told.mean)


def test_on_an_uneven_tree_the_calls_stay_below_the_most_that_was_told():
    for seed in range(20):
        rng = random.Random(seed)
        taxonomy = tree(rng)
        scores = {node: rng.gauss(0, 2) for node in all_nodes(taxonomy)}
        for beam in (1, 2, 4):
            told = count_calls(taxonomy, roots=[()], options=3, beam=beam)
            assert run(taxonomy, fixed(scores), options=3, beam=beam).calls <= told.most


def test_an_option_of_probability_zero_ends_no_descent():
    found = run(
        Taxonomy([("a", "b"), ("a", "c"), ("d", "e")]),
        lambda asked: [1.0] + [0.0] * (len(asked.question.options) - 1),
        beam=4,
    )
    assert found.paths[0].logprob == pytest.approx(0, abs=1e-6)
    assert all(math.isfinite(path.logprob) for path in found.paths)


def test_the_order_of_options_changes_with_the_image_and_not_with_the_beam():
    taxonomy = Taxonomy([(name,) for name in "abcdefgh"])

    def first(seed: str, beam: int) -> list[tuple[str, ...]]:
        asked = next(descend(taxonomy, roots=[()], options=4, beam=beam, seed=seed))
        return [question.question.options for question in asked]

    assert first("one", 1) == first("one", 3) != first("two", 1)


def test_a_path_is_found_below_each_root_and_the_surest_is_first():
    taxonomy = Taxonomy([(root, name) for root in ("birds", "cars") for name in ("a", "b", "c")], skip=1)
    chances = {"birds": [0.9, 0.06, 0.04], "cars": [0.6, 0.3, 0.1]}
    names = ("a", "b", "c")

    def model(asked: OpenQuestion) -> list[float]:
        return [chances[asked.path.node[0]][names.index(name)] for name in asked.question.options]

    found = run(taxonomy, model, roots=[("cars",), ("birds",)], beam=2)
    assert [path.node for path in found.paths] == [("birds", "a"), ("cars", "a"), ("cars", "b"), ("birds", "b")]
    assert math.exp(found.paths[0].logprob) == pytest.approx(0.9)
    assert found.calls == 2 == count_calls(taxonomy, roots=[("cars",), ("birds",)], options=4, beam=2).most


def test_a_filler_is_no_child_in_another_spelling():
    taxonomy = Taxonomy([("r", "Rosa"), ("r", "y"), ("s", "rosa"), ("s", "Y"), ("s", "z"), ("t", "Z")])
    asked = []

    def model(question: OpenQuestion) -> list[float]:
        asked.append(question.question.options)
        return softmax([0.0] * len(question.question.options))

    run(taxonomy, model, beam=9)
    for options in asked:
        assert len(set(map(fold, options))) == len(options)


def test_a_root_without_a_choice_is_no_place_to_start_from():
    taxonomy = Taxonomy([("birds", "a"), ("birds", "b"), ("stones", "grey", "pebble")], skip=1)
    assert taxonomy.roots_with_a_choice() == (("birds",),)
    assert Taxonomy([("stones", "grey", "pebble")], skip=1).roots_with_a_choice() == ()
    assert Taxonomy([("a",), ("b",)]).roots_with_a_choice() == ((),)


def test_a_path_keeps_the_levels_that_are_sure_enough_if_one_of_them_was_asked_about():
    found = run(Taxonomy([("life", "a"), ("life", "b")]), lambda asked: softmax([0.0, 0.4]))
    [path] = found.paths
    assert [path.levels_kept(threshold) for threshold in (0, 0.5, 0.7)] == [2, 2, 0]
