"""Questions: their invariants on any tree, the two kinds of distractors, and stability."""

from collections import Counter
from itertools import pairwise
from subprocess import run
from sys import executable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_trees import NAMES, TREES, needs_trees

from sekd.errors import SekdError
from sekd.questions import Question, build_questions
from sekd.taxonomy import Taxonomy, fold, load_taxonomy

# Few names and unequal depths, so that repeated names, shared parents and lone nodes are common.
paths = st.lists(
    st.lists(st.sampled_from(["a", "A", "b", "c", "d", "e", "f"]), min_size=2, max_size=5), min_size=1, max_size=20
)


def check(questions: tuple[Question, ...], path: tuple[str, ...], tree: Taxonomy, options: int) -> None:
    """The invariants of any sample's questions, checked against the whole tree."""
    asked = {question.depth: question for question in questions}
    for depth in range(tree.skip, len(path)):
        level = {fold(node[-1]) for node in tree.nodes(depth, path[: tree.skip])}
        if len(level) == 1:
            assert depth not in asked
            continue
        question = asked[depth]
        folded = [fold(name) for name in question.options]
        assert len(set(folded)) == len(folded) == min(options, len(level))
        assert set(folded) <= level
        assert folded.count(fold(path[depth])) == 1
        assert question.truth_name == path[depth]
        assert question.level == tree.level_name(depth)
    assert set(asked) <= set(range(tree.skip, len(path)))


@settings(deadline=None)
@given(
    paths=paths,
    skip=st.integers(0, 1),
    seed=st.integers(0, 9),
    kind=st.sampled_from(["random", "similar"]),
    options=st.integers(2, 6),
)
def test_questions_hold_the_truth_once_no_option_twice_and_only_nodes_of_their_level(
    paths: list[list[str]], skip: int, seed: int, kind: str, options: int
) -> None:
    tree = Taxonomy(paths, skip=skip)
    for leaf in tree.leaves:
        questions = build_questions(
            sample_id="x", path=leaf, taxonomy=tree, seed=seed, distractors=kind, options=options
        )
        check(questions, leaf, tree, options)


@needs_trees
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["random", "similar"])
def test_questions_of_every_leaf_of_the_published_trees_are_right(name: str, kind: str) -> None:
    tree = load_taxonomy(TREES / f"hierarchy_{name}.json", skip=0 if name == "CUB200" else 1)
    levels = [
        {
            root: Counter(fold(node[-1]) for node in tree.nodes(depth, root))
            for root in {leaf[: tree.skip] for leaf in tree.leaves}
        }
        for depth in range(tree.depth)
    ]
    for leaf in tree.leaves:
        questions = build_questions(sample_id=leaf[-1], path=leaf, taxonomy=tree, seed=0, distractors=kind)
        assert [question.depth for question in questions] == list(range(tree.skip, len(leaf)))
        for question in questions:
            folded = [fold(option) for option in question.options]
            assert len(set(folded)) == len(folded) == min(4, len(levels[question.depth][leaf[: tree.skip]]))
            assert all(option in levels[question.depth][leaf[: tree.skip]] for option in folded)
            assert folded.count(fold(leaf[question.depth])) == 1
            assert question.truth_name == leaf[question.depth]


def build(tree: Taxonomy, sample: str, **settings: object) -> tuple[Question, ...]:
    return build_questions(sample_id=sample, path=tree.leaves[0], taxonomy=tree, seed=0, **settings)  # type: ignore[arg-type]


def family_tree() -> Taxonomy:
    """Four orders of three families of three genera each."""
    return Taxonomy([[f"o{i}", f"f{i}{j}", f"g{i}{j}{k}"] for i in range(4) for j in range(3) for k in range(3)])


def test_similar_distractors_are_siblings_first_then_cousins() -> None:
    tree = family_tree()
    for sample in range(50):
        _, family, genus = build(tree, str(sample), distractors="similar")
        wrong = set(genus.options) - {"g000"}
        assert {"g001", "g002"} < wrong
        assert (wrong - {"g001", "g002"}).pop()[:2] == "g0"
        assert {"f01", "f02"} < set(family.options)


def test_similar_and_random_agree_where_there_is_nothing_to_choose() -> None:
    tree = Taxonomy([["a", "x"], ["a", "y"], ["a", "z"]], skip=1)
    for kind in ("random", "similar"):
        assert set(build(tree, "s", distractors=kind)[0].options) == {"x", "y", "z"}


def test_distractors_never_cross_the_skipped_levels() -> None:
    tree = Taxonomy([[kingdom, f"{kingdom}{i}"] for kingdom in "pq" for i in range(6)], skip=1)
    for kind in ("random", "similar"):
        for sample in range(20):
            assert all(name.startswith("p") for name in build(tree, str(sample), distractors=kind)[0].options)


def test_a_name_that_many_parents_share_is_a_likelier_random_distractor() -> None:
    tree = Taxonomy([["p0", "truth"], *([f"p{i}", "often"] for i in range(1, 9)), ["p9", "rare"], ["p0", "rarer"]])
    seen = Counter(
        name
        for sample in range(2000)
        for name in build_questions(sample_id=str(sample), path=("p0", "truth"), taxonomy=tree, seed=0, options=2)[
            1
        ].options
    )
    assert 0.75 < seen["often"] / 2000 < 0.85  # 8 of the 10 other nodes
    assert 0.07 < seen["rare"] / 2000 < 0.13


def test_random_distractors_and_the_place_of_the_truth_are_even() -> None:
    tree = Taxonomy([[str(i)] for i in range(9)])
    asked = [build(tree, str(sample))[0] for sample in range(4000)]
    places = Counter(question.truth for question in asked)
    wrong = Counter(name for question in asked for name in question.options if name != "0")
    assert all(abs(places[place] - 1000) < 120 for place in range(4))
    assert all(abs(wrong[str(i)] - 1500) < 150 for i in range(1, 9))


def test_questions_depend_on_seed_and_sample_and_not_on_the_order_of_the_tree() -> None:
    paths = [[f"o{i % 5}", f"g{i}"] for i in range(40)]
    first, second = Taxonomy(paths), Taxonomy(paths[::-1])
    assert build(first, "s") == build(second, "s")
    assert build(first, "s") != build(first, "t")
    assert build(first, "s") != build_questions(sample_id="s", path=first.leaves[0], taxonomy=first, seed=1)


def test_questions_are_the_same_in_another_process() -> None:
    code = (
        "from sekd.taxonomy import Taxonomy; from sekd.questions import build_questions\n"
        "tree = Taxonomy([[f'o{i % 5}', f'g{i}'] for i in range(40)])\n"
        "print([build_questions(sample_id=str(s), path=tree.leaves[0], taxonomy=tree, seed=3) for s in range(5)])"
    )
    outputs = {
        run([executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_published_questions_never_change() -> None:
    """A store's fingerprint covers the seed, not the algorithm, which must not change."""
    genus = build_questions(sample_id="val/1.jpg", path=("o1", "f12", "g120"), taxonomy=family_tree(), seed=7)[2]
    assert genus.options == ("g120", "g312", "g002", "g321")


@pytest.mark.parametrize("settings", [{"distractors": "hard"}, {"options": 1}, {"options": 27}])
def test_an_unknown_kind_or_number_of_options_is_an_error(settings: dict[str, object]) -> None:
    with pytest.raises(SekdError):
        build(family_tree(), "s", **settings)


def test_a_path_that_the_tree_does_not_hold_is_an_error() -> None:
    with pytest.raises(SekdError, match="o1 > f00"):
        build_questions(sample_id="s", path=["o1", "f00"], taxonomy=family_tree(), seed=0)


def test_an_inner_node_is_asked_about_down_to_itself() -> None:
    questions = build_questions(sample_id="s", path=["o1", "f10"], taxonomy=family_tree(), seed=0)
    assert [question.truth_name for question in questions] == ["o1", "f10"]
    assert all(first.depth < second.depth for first, second in pairwise(questions))
