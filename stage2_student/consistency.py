"""Soft targets in which a level agrees with the level above: no mass on a wrong parent's children.

A question's options come from all over the tree. Once the teacher has said which family it is, the genera of other
families can no longer be right, yet its distribution leaves them some mass. Here that mass is taken away and the rest
made whole again: the distribution given that the parent is right. Not part of the paper.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from sekd.questions import Question
from sekd.taxonomy import Taxonomy, fold
from stage2_student.losses import TAIL_FLOOR
from stage2_student.stored import Candidates, TeacherPath


@dataclass(frozen=True)
class Consistency:
    """Takes the mass on a wrong parent's children out of a path's candidates.

    Attributes:
        letter_ids: token ids of the options' letters, in letter order.
    """

    taxonomy: Taxonomy
    letter_ids: tuple[int, ...]

    def __call__(self, path: TeacherPath) -> TeacherPath:
        """The same path; a question none of whose options is a child of the answer above stays as it is."""
        if path.candidates is None:
            return path
        wrong_SK = np.stack([self._wrong(path, step) for step in path.steps])
        return replace(path, candidates=without(path.candidates, wrong_SK))

    def _wrong(self, path: TeacherPath, step: int) -> np.ndarray:
        """Which candidates of a step are letters of a wrong parent's children, [K]."""
        assert path.candidates is not None
        tokens = self._wrong_letters(path.questions, path.answers, step)
        return np.isin(path.candidates.ids_SK[step], tokens)

    def _wrong_letters(self, questions: Sequence[Question], answers: Sequence[int], step: int) -> list[int]:
        if step == 0:
            return []
        above, asked = questions[step - 1], questions[step]
        parent = fold(above.options[answers[step - 1]])
        children = _children(self.taxonomy, above.depth, asked.depth)[parent]
        wrong = [
            token for token, option in zip(self.letter_ids, asked.options, strict=False) if fold(option) not in children
        ]
        return wrong if len(wrong) < len(asked.options) else []


@cache
def _children(taxonomy: Taxonomy, parent_depth: int, depth: int) -> Mapping[str, set[str]]:
    """Parent's name -> names at a depth below any node of that name, all folded."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    for node in taxonomy.nodes(depth):
        children[fold(node[parent_depth])].add(fold(node[-1]))
    return children


def without(candidates: Candidates, wrong_SK: np.ndarray) -> Candidates:
    """Candidates whose mass at ``wrong_SK`` is taken away, the rest and the tail scaled to one again."""
    kept_SK = np.where(wrong_SK, -np.inf, candidates.logprobs_SK)
    tail_S = np.maximum(candidates.tail_S, TAIL_FLOOR)  # something is left even where all candidates are taken
    left_S = np.logaddexp(np.logaddexp.reduce(kept_SK, axis=1), tail_S)
    return replace(
        candidates,
        logprobs_SK=np.maximum(kept_SK - left_S[:, None], TAIL_FLOOR).astype(np.float32),
        tail_S=(tail_S - left_S).astype(np.float32),
    )
