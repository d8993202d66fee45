"""Which options to offer when nobody says which: from a whole tree to questions of a few letters.

The student answers every level in one pass, over options that stand in its prompt. A user's image comes without
options, so each level offers its candidates from the tree:

- A level at which the tree has at most ``most`` names offers them all. Where that holds for every level, and the
  answers form a path of the tree, one pass is all there is.
- A wider level offers ``most`` of its names for now. A pass decides the levels, from the coarsest on, whose candidates
  below the answered parent were all on offer; the next pass opens with those answers and offers the last one's
  children.
- A node with more children than ``most`` is a knock-out: the winner of one pass meets the next children in the next.

A decided name's probability is that among all children of the node above, from the probabilities of every pass. A
pass's own are taken over those of its options that are children. Where it offers the winner so far, whose probability
among all children offered before is P, and gives it p and its own winner q, the winner's probability among all children
offered so far is

    P' = q / (1 − p + p / P)                (P = 1 before the first pass, so that P' = q there)

since what was offered before weighs p / P where the winner so far weighs p. It equals what one
question of all children would give if the odds of two names did not depend on the others on offer (Luce's choice
axiom, which a softmax over fixed scores has).

A node with one child needs no question. The result is always a path of the tree. How many passes an image took is
reported with it: a tree pruned to the plausible candidates takes one.
"""

import math
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sekd.datasets.images import SUFFIXES
from sekd.errors import SekdError
from sekd.evaluation.calibration import among_offered
from sekd.inference.requests import UnreadableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.questions import Question
from sekd.taxonomy import Names, Taxonomy, fold


@dataclass(frozen=True)
class Answer:
    """The option chosen for one question, and every option's probability among them (NaN where it is not known)."""

    option: int
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """One decided level of a path. ``probability`` is that among all children of the node above; 1 for an only one."""

    level: str
    name: str
    probability: float


@dataclass(frozen=True)
class NarrowingStep:
    """One pass: every question of the path, of which the first ``len(decided)`` are answered already, by option."""

    questions: tuple[Question, ...]
    decided: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """An image's path, coarse to fine, and its number of passes; ``fault`` is the reason if there is none."""

    image: Path
    levels: tuple[Decision, ...]
    passes: int
    fault: str = ""

    @property
    def probability(self) -> float:
        """Of the whole path: the product over its levels."""
        return math.prod(level.probability for level in self.levels)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files as given, and every image below the folders among them, in stable order.

    Raises:
        SekdError: a path does not exist, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SekdError(f"{path} does not exist: expected an image or a folder of images")
        found += sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not found:
        raise SekdError(f"no image found: expected files that end in {', '.join(SUFFIXES)}")
    return found


def predict(
    engine: Any,
    strategies: Strategies,
    images: Sequence[Path],
    taxonomy: Taxonomy,
    *,
    roots: Sequence[Names],
    most: int,
) -> Iterator[Prediction]:
    """Predictions in the order in which they are ready.

    Args:
        roots: the nodes to start below. Of several, a path is found below each and the most probable one is kept: the
            model was never asked to choose between trees. The root's probability is its path's share of all.
        most: most options a question.
    """
    yield from engine.drive(_conversation(strategies, image, taxonomy, roots, most) for image in images)


def _conversation(
    strategies: Strategies, image: Path, taxonomy: Taxonomy, roots: Sequence[Names], most: int
) -> Conversation[Prediction]:
    found = []
    try:
        for root in roots:
            levels, passes = yield from _below(
                strategies, image, narrow(taxonomy, root=root, most=most, seed=image.name)
            )
            found.append(Prediction(image, tuple(levels), passes))
    except UnreadableImageError as error:
        return Prediction(image, (), 0, fault=str(error))
    if len(found) == 1:
        return found[0]
    certainty = [0.0 if math.isnan(path.probability) else path.probability for path in found]
    best = certainty.index(max(certainty))
    share = certainty[best] / sum(certainty) if sum(certainty) else math.nan
    level = Decision(taxonomy.level_name(taxonomy.skip - 1), roots[best][-1], share)
    return Prediction(image, (level, *found[best].levels), sum(path.passes for path in found))


def _below(strategies: Strategies, image: Path, narrowing: "Narrowing") -> Conversation[tuple[list[Decision], int]]:
    """Ask the narrowing's questions about the image."""
    answers = None
    while True:
        try:
            step = narrowing.send(answers)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            return end.value
        subject = Subject(image, str(image.resolve()), step.questions)
        given = yield from strategies.guided(subject, step.decided)
        answers = []
        for question, result, chosen in zip(
            step.questions[len(step.decided) :], given.results, given.chosen, strict=True
        ):
            logprobs = strategies.letter_logprobs(question, result)
            unknown = (math.nan,) * len(question.options)
            answers.append(Answer(chosen, among_offered(logprobs) if logprobs else unknown))  # type: ignore[arg-type]


Narrowing = Generator[NarrowingStep, Sequence[Answer], tuple[list[Decision], int]]


@dataclass
class _State:
    node: Names  # the decided node; its first names may be skipped levels
    levels: list[Decision] = field(default_factory=list)
    asked: list[tuple[Question, int]] = field(default_factory=list)  # decided questions with their answers
    beaten: set[str] = field(default_factory=set)  # children of ``node`` that lost a knock-out
    leading: str | None = None  # the one they lost to, as folded
    standing: float = 1.0  # its probability among all that were offered so far
    passes: int = 0


def narrow(taxonomy: Taxonomy, *, root: Names, most: int, seed: str) -> Narrowing:
    """Ask until a leaf is decided. Yields passes, is sent an answer for each open question, coarse to fine.

    Args:
        root: the node to start below, of ``taxonomy.skip`` names.
        most: most options a question.
        seed: decides the order of letters, so that none is favoured.

    Returns:
        The decided levels and how many passes they took.
    """
    state = _State(root)
    while _settle_single_children(taxonomy, state):
        rng = random.Random(f"{seed}/{state.passes}")
        questions = _open_questions(taxonomy, state, most, rng)
        done = tuple(question for question, _ in state.asked)
        answers = yield NarrowingStep((*done, *questions), tuple(option for _, option in state.asked))
        assert len(answers) == len(questions), (len(answers), len(questions))
        state.passes += 1
        _accept(taxonomy, state, questions, answers)
    return state.levels, state.passes


def roots_of(taxonomy: Taxonomy, name: str | None) -> list[Names]:
    """The nodes that the asked levels lie below: the one named, or all.

    Raises:
        SekdError: the tree has no root of that name.
    """
    if taxonomy.skip == 0:
        return [()]
    roots = taxonomy.nodes(taxonomy.skip - 1)
    wanted = [root for root in roots if name is None or fold(root[-1]) == fold(name)]
    if not wanted:
        known = ", ".join(root[-1] for root in roots)
        raise SekdError(f"--root {name}: the taxonomy has no such root, choose among {known}")
    return wanted


def _settle_single_children(taxonomy: Taxonomy, state: _State) -> bool:
    """Walk down while there is no alternative; whether there is something left to ask."""
    while names := _children(taxonomy, state):
        if len(names) > 1:
            return True
        _descend(taxonomy, state, names[0], 1.0)
    return False


def _children(taxonomy: Taxonomy, state: _State) -> list[str]:
    return [name for name in _names_below(taxonomy, state.node, len(state.node)) if fold(name) not in state.beaten]


def _names_below(taxonomy: Taxonomy, node: Names, depth: int) -> list[str]:
    """The distinct names at a depth below a node, in stable order; none below the tree's last level."""
    if depth >= taxonomy.depth:
        return []
    names = {fold(path[-1]): path[-1] for path in taxonomy.nodes(depth, node)}
    return list(names.values())


def _open_questions(taxonomy: Taxonomy, state: _State, most: int, rng: random.Random) -> list[Question]:
    """One question a level below the decided node that has an alternative to offer, down to the tree's depth."""
    questions = []
    for depth in range(len(state.node), taxonomy.depth):
        if depth == len(state.node):  # the winner so far comes first, the others as they are
            offered = sorted(_children(taxonomy, state), key=lambda name: fold(name) != state.leading)[:most]
        else:
            names = _names_below(taxonomy, state.node, depth)
            offered = names if len(names) <= most else [names[i * len(names) // most] for i in range(most)]
        rng.shuffle(offered)
        if len(offered) > 1:
            questions.append(Question(depth, taxonomy.level_name(depth), tuple(offered), None))
    return questions


def _accept(taxonomy: Taxonomy, state: _State, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    """Take over the answers, coarse to fine, as long as all candidates were on offer and the answer is one of them."""
    for question, answer in zip(questions, answers, strict=True):
        while len(state.node) < question.depth and len(names := _children(taxonomy, state)) == 1:
            _descend(taxonomy, state, names[0], 1.0)
        if len(state.node) != question.depth:
            return
        name = question.options[answer.option]
        children = {fold(child) for child in _children(taxonomy, state)}
        offered = {fold(option) for option in question.options}
        if fold(name) not in children:
            return
        standing = _among_children(state, children, question, answer)
        if children - offered:  # a knock-out goes on
            state.beaten |= (children & offered) - {fold(name)}
            state.leading, state.standing = fold(name), standing
            return
        state.asked.append((question, answer.option))
        _descend(taxonomy, state, name, standing)


def _among_children(state: _State, children: set[str], question: Question, answer: Answer) -> float:
    """The answer's probability among all children offered so far; the formula stands on top of this file."""
    given = dict(zip(map(fold, question.options), answer.probabilities, strict=True))
    total = sum(probability for name, probability in given.items() if name in children)
    leading = given.get(state.leading or "", 0.0) / total
    winner = answer.probabilities[answer.option] / total
    return winner / (1 - leading + leading / state.standing)


def _descend(taxonomy: Taxonomy, state: _State, name: str, probability: float) -> None:
    level = taxonomy.level_name(len(state.node))
    state.node = taxonomy.path((*state.node, name))
    state.levels.append(Decision(level, state.node[-1], probability))
    state.beaten, state.leading, state.standing = set(), None, 1.0
