"""Descent: the path of an image down a tree, found without a label.

At a node its children are the options of one question. More children than fit in a question are asked in heats, whose
winners meet in a final. A beam keeps the partial paths of the highest probability, so that an early mistake can be
corrected; a beam of 1 is greedy.

The probability of a child among all children of its node follows from the heats by Luce's choice axiom: the odds of two
options do not depend on the others on offer, as in a softmax over fixed scores. A child c that has probability p(c) in
a heat won by w has the strength p(c) / p(w) · strength(w); in the final, an option's probability is its strength.
Strengths divided by their sum are the probabilities. A path's probability is the product over its levels.

A question with room left is filled with other names of the level, so that all questions look alike, to a student above
all. Only the children count: probabilities are taken among them.

Calls no model: it yields questions and is sent probabilities.
"""

import math
import operator
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from sekd.errors import SekdError
from sekd.questions import Question, in_random_order
from sekd.taxonomy import Names, Taxonomy, fold

SMALLEST = 1e-12  # a probability of 0 still leaves an option its place in the order

Probabilities = Sequence[float]
Heat = tuple[str, ...]


@dataclass(frozen=True)
class PartialPath:
    """A node of the tree, and the questions and answers on the way to it.

    Attributes:
        node: its names, the skipped levels included.
        logprobs: natural log of the path's probability at each level below the skipped ones; they only fall.
        questions, answers: what was asked on the way, one question a level with a choice, and the option taken.
    """

    node: Names
    logprobs: tuple[float, ...] = ()
    questions: tuple[Question, ...] = ()
    answers: tuple[int, ...] = ()

    @property
    def logprob(self) -> float:
        return self.logprobs[-1] if self.logprobs else 0.0

    def levels_kept(self, threshold: float) -> int:
        """How many levels are at least so probable (0 … 1); 0 where nothing that was asked about is."""
        kept, skipped = depth_to_stop(self.logprobs, threshold), len(self.node) - len(self.logprobs)
        return kept if any(question.depth < skipped + kept for question in self.questions) else 0


@dataclass(frozen=True)
class OpenQuestion:
    path: PartialPath
    question: Question


@dataclass(frozen=True)
class Found:
    """The paths in the beam when all had reached a leaf, the most probable first, and how many questions it took."""

    paths: tuple[PartialPath, ...]
    calls: int


Descent = Generator[list[OpenQuestion], Sequence[Probabilities], Found]


def descend(taxonomy: Taxonomy, *, roots: Sequence[Names], options: int, beam: int, seed: str) -> Descent:
    """Descend from the roots until every path of the beam has reached a leaf.

    Yields the questions that can be asked at once; is sent the probabilities of each one's options, which sum to 1.

    Args:
        roots: the nodes to start from, of ``taxonomy.skip`` names each. Nothing is asked about them: of several, paths
            are found below each, and their probabilities are those below the root.
        options: most options a question.
        beam: partial paths that are kept below each root.
        seed: orders the options, so that no letter is favoured. A node's first heats depend on it and the node alone.
    """
    paths, calls = [PartialPath(root) for root in roots], 0
    while any(taxonomy.children(path.node) for path in paths):
        levels = [_Level(path, taxonomy, options, seed) for path in paths]
        while asked := [question for level in levels for question in level.open]:
            calls += len(asked)
            answers = iter((yield asked))
            for level in levels:
                level.take([next(answers) for _ in level.open])
        grown = [path for level in levels for path in level.extended()]
        paths = [path for below in _by_root(grown, taxonomy.skip) for path in below[:beam]]
    return Found(tuple(sorted(paths, key=lambda path: -path.logprob)), calls)


def _by_root(paths: Sequence[PartialPath], skip: int) -> list[list[PartialPath]]:
    groups: dict[Names, list[PartialPath]] = {}
    for path in sorted(paths, key=lambda path: -path.logprob):
        groups.setdefault(path.node[:skip], []).append(path)
    return list(groups.values())


class _Level:
    """The children of one partial path, asked about in heats until one is left."""

    def __init__(self, path: PartialPath, taxonomy: Taxonomy, options: int, seed: str) -> None:
        self._path, self._options = path, options
        self._depth, self._name = len(path.node), taxonomy.level_name(len(path.node))
        self._rng = random.Random(f"{seed}/{'/'.join(path.node)}")
        children = [node[-1] for node in taxonomy.children(path.node)]
        self._strength = dict.fromkeys(children, 0.0)  # log, relative to the one that is left of its heats
        self._behind = {child: [child] for child in children}  # by the one that is left
        self._asked: dict[str, Question] = {}  # the last question that a child was an option of
        self._level = taxonomy.names[self._depth] if children else ()
        self._heats = self._draw(children)

    @property
    def open(self) -> list[OpenQuestion]:
        """The questions to ask now; none once one child is left."""
        return [OpenQuestion(self._path, question) for heat, question in self._heats if len(heat) > 1]

    def take(self, answers: Sequence[Probabilities]) -> None:
        """The probabilities of the open questions' options."""
        given, left = iter(answers), []
        for heat, question in self._heats:
            logprobs = dict.fromkeys(heat, 0.0)
            if len(heat) > 1:
                known = dict(zip(question.options, next(given), strict=True))
                logprobs = {name: math.log(max(known[name], SMALLEST)) for name in heat}
                self._asked |= dict.fromkeys(heat, question)
            winner = max(heat, key=logprobs.__getitem__)
            for name in heat:
                for child in self._behind[name]:
                    self._strength[child] += logprobs[name] - logprobs[winner]
            self._behind[winner] = [child for name in heat for child in self._behind[name]]
            left.append(winner)
        self._heats = self._draw(left) if len(left) > 1 else []

    def extended(self) -> list[PartialPath]:
        """The path with each child; the path itself where it ends at a leaf."""
        if not self._strength:
            return [self._path]
        total = math.log(sum(math.exp(strength) for strength in self._strength.values()))
        return [self._with(child, strength - total) for child, strength in self._strength.items()]

    def _with(self, child: str, logprob: float) -> PartialPath:
        path, question = self._path, self._asked.get(child)
        return PartialPath(
            node=(*path.node, child),
            logprobs=(*path.logprobs, path.logprob + logprob),
            questions=path.questions if question is None else (*path.questions, question),
            answers=path.answers if question is None else (*path.answers, question.options.index(child)),
        )

    def _draw(self, names: Sequence[str]) -> list[tuple[Heat, Question]]:
        drawn = self._shuffled(names)
        count = -(-len(drawn) // self._options)
        heats = [tuple(drawn[heat::count]) for heat in range(count)]
        return [(heat, self._question(heat)) for heat in heats]

    def _question(self, heat: Heat) -> Question:
        fillers: dict[str, str] = {}
        if 1 < len(heat) < self._options:
            children = set(map(fold, self._strength))
            others = (self._level[index] for index in in_random_order(self._rng, 0, len(self._level)))
            for name in others:
                if len(heat) + len(fillers) == self._options:
                    break
                if fold(name) not in children:
                    fillers.setdefault(fold(name), name)
        options = self._shuffled([*heat, *fillers.values()]) if fillers else heat
        return Question(self._depth, self._name, tuple(options), truth=None)

    def _shuffled(self, names: Sequence[str]) -> list[str]:
        return [names[index] for index in in_random_order(self._rng, 0, len(names))]


@dataclass(frozen=True)
class Calls:
    """Questions that a descent asks about one image: an estimate over the tree's leaves, and the most there can be."""

    mean: float
    most: int


def count_calls(taxonomy: Taxonomy, *, roots: Sequence[Names], options: int, beam: int) -> Calls:
    """The number of questions of a descent, from the tree; arguments as in ``descend``."""
    mean, most = 0.0, 0
    for root in roots:
        leaves, alive = _leaves_below(taxonomy, root), 1
        for depth in range(taxonomy.skip, taxonomy.depth):
            nodes = taxonomy.nodes(depth - 1, root) if depth > taxonomy.skip else (root,)
            questions = [_questions(len(taxonomy.children(node)), options) for node in nodes]
            below = [_leaves_below(taxonomy, node) for node in nodes]
            alive = min(alive, len(nodes))
            mean += alive * sum(map(operator.mul, questions, below)) / leaves
            most += sum(sorted(questions)[-alive:])
            alive = beam
    return Calls(mean, most)


def _leaves_below(taxonomy: Taxonomy, node: Names) -> int:
    children = taxonomy.children(node)
    return sum(_leaves_below(taxonomy, child) for child in children) if children else 1


def _questions(children: int, options: int) -> int:
    """Questions until one of so many is left."""
    asked = 0
    while children > 1:
        heats = -(-children // options)
        asked += min(heats, children // 2) if children < 2 * heats else heats
        children = heats
    return asked


def depth_to_stop(logprobs: Sequence[float], threshold: float) -> int:
    """How many levels of a path are sure enough.

    Args:
        logprobs: natural log of the path's probability at each level, falling.
        threshold: 0 … 1; 0 keeps every level.
    """
    least = math.log(threshold) if threshold > 0 else -math.inf
    return sum(logprob >= least for logprob in logprobs)


def check_threshold(threshold: float, setting: str) -> None:
    if not 0 <= threshold <= 1:
        raise SekdError(f"{setting}={threshold}: expected a probability from 0 to 1")
