"""The paper's Figure 5 for these models: images that fail in one pass and are repaired, and those that are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sekd.evaluation.generations import Generation
from sekd.evaluation.report.comparison import name_of
from sekd.evaluation.report.document import Case, Section, Step, Table, Value
from sekd.evaluation.report.gallery import embed
from sekd.evaluation.scores import Kept
from sekd.evaluation.students import STUDENT
from sekd.questions import Question

Way = tuple[str, str]  # model, paradigm
BEFORE: Way = ("base", "joint")
AFTER: Way = (STUDENT, "joint")
TEACHER: Way = ("base", "conditioned")
KINDS = (  # (before right, after right) -> title, the most cases shown of it
    ((False, True), "repaired", 4),
    ((False, False), "still wrong", 2),
    ((True, False), "newly wrong", 2),
)
Answered = tuple[Generation, Sequence[int | None]]


@dataclass(frozen=True)
class Tree:
    """A tree's kept answers, one training each: way of asking -> sample -> what was asked and answered."""

    name: str
    root: Path
    ways: dict[Way, Mapping[str, Answered]]


def gather(kept: Sequence[Kept]) -> list[Tree]:
    """The kept cells by tree; of a student with several trainings the first one."""
    trees: dict[str, Tree] = {}
    for each in sorted(kept, key=lambda each: (each.cell.part != "in_domain", each.cell.tree, each.cell.seed)):
        tree = trees.setdefault(each.cell.tree, Tree(each.cell.tree, Path(each.cell.root), {}))
        answered = zip(each.generations, each.answers, strict=True)
        by_sample = {generation.sample: (generation, answers) for generation, answers in answered}
        tree.ways.setdefault((each.cell.model, each.cell.paradigm), by_sample)
    return list(trees.values())


def cases(kept: Sequence[Kept]) -> Section | None:
    """Cases from every tree, with the counts they are drawn from; None where no image's truth is known."""
    shown: list[Case] = []
    counts: list[tuple[Value, ...]] = []
    for tree in gather(kept):
        after = AFTER if AFTER in tree.ways else TEACHER
        if not {BEFORE, after} <= set(tree.ways):
            continue
        kinds = _by_kind(tree, after)
        if not kinds:
            continue
        counts.append((tree.name, *(len(kinds.get(kind, ())) for kind in _ALL)))
        for kind, title, most in KINDS:
            picked = _spread_out(kinds.get(kind, []), most)
            shown += [_case(tree, sample, f"{tree.name}: {title}", after) for sample in picked]
    if not counts:
        return None
    table = Table(
        "What became of the base's one-pass answers, images",
        ("tree", "right before and after", "repaired", "newly wrong", "still wrong"),
        counts,
    )
    text = [
        f"Whole paths before ({name_of(*BEFORE)}) and after ({_after_words(kept)}). Cases are picked evenly from "
        "all of their kind, in the order of the samples, not by how good they look. A right node carries a tick "
        "and the word right, a wrong one a cross, a wavy line and the word wrong."
    ]
    return Section("cases", "Failure and repair", text, [table], cases=shown)


_ALL = ((True, True), (False, True), (True, False), (False, False))


def _after_words(kept: Sequence[Kept]) -> str:
    student = any(each.cell.model == STUDENT for each in kept)
    return name_of(*AFTER) if student else f"{name_of(*TEACHER)}, as there is no student"


def _by_kind(tree: Tree, after: Way) -> dict[tuple[bool, bool], list[str]]:
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for sample in sorted(set(tree.ways[BEFORE]) & set(tree.ways[after])):
        before, now = tree.ways[BEFORE][sample], tree.ways[after][sample]
        if all(question.truth is not None for question in before[0].questions):
            kinds.setdefault((_right(before), _right(now)), []).append(sample)
    return kinds


def _right(answered: Answered) -> bool:
    generation, answers = answered
    return all(q.truth == answer for q, answer in zip(generation.questions, answers, strict=True))


def _spread_out(samples: Sequence[str], most: int) -> list[str]:
    count = min(most, len(samples))
    return [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]


def _case(tree: Tree, sample: str, title: str, after: Way) -> Case:
    generation = tree.ways[BEFORE][sample][0]
    image = embed(tree.root / generation.image)
    truth = [Step(q.level, str(q.truth_name), None) for q in generation.questions]
    words = ", ".join(f"{step.level} {step.name}" for step in truth)
    missing = f"The image {generation.image} was not found below {tree.root}."
    ways = [way for way in (BEFORE, TEACHER, AFTER) if way in tree.ways and sample in tree.ways[way]]
    answered = [(name_of(*way), _steps(*tree.ways[way][sample])) for way in ways]
    return Case(
        f"{title} ({sample})",
        image,
        f"Image {sample}: {words}." if image else missing,
        [("True path", truth), *answered],
    )


def _steps(generation: Generation, answers: Sequence[int | None]) -> list[Step]:
    return [_step(q, answer) for q, answer in zip(generation.questions, answers, strict=True)]


def _step(question: Question, answer: int | None) -> Step:
    name = "no readable answer" if answer is None else question.options[answer]
    return Step(question.level, name, answer is not None and answer == question.truth)
