"""The whole of ``make evaluate``: what is missing is asked on one engine, then all is scored from what is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sekd.datasets import load_dataset
from sekd.datasets.base import Dataset, Example
from sekd.datasets.config import DataConfig
from sekd.errors import SekdError
from sekd.evaluation.adapters import check_adapter
from sekd.evaluation.asking import Examiner, Unreadable, longest_answer
from sekd.evaluation.cells import Planned, answering, fill, missing, plan
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.generations import list_cells
from sekd.evaluation.scores import Bootstrap, Scores, read_run, score_run
from sekd.evaluation.students import find_students
from sekd.inference.engine import Engine
from sekd.models import load_processor
from sekd.prompts import Prompter

Work = list[tuple[Planned, Path, list[Example]]]


def evaluate(config: EvaluateConfig, *, unseen: list[DataConfig]) -> Scores:
    """Ask what is not kept yet, write ``scores.json`` into the run folder, and return what stands in it.

    Raises:
        SekdError: a dataset, model or adapter that cannot be used, or too many unreadable images.
    """
    run = Path(config.runs) / config.name
    datasets = _datasets(config, unseen)
    students = find_students(run)
    for student in students:
        check_adapter(student.adapter, config.model)
    prompter, processor = Prompter.named(config.model.wording), load_processor(config.model)
    answer = max(longest_answer(prompter, processor.tokenizer, dataset) for _, dataset in datasets)
    decoding = {"max_answer_tokens": 64 + 2 * answer, "topk": config.topk, "temperature": 0}
    who = answering(students, base=config.base, student=config.student)
    planned = plan(config.model, datasets, who, decoding=decoding)
    work = [(each, run / "generations" / each.cell.folder) for each in planned]
    todo = [(each, folder, examples) for each, folder in work if (examples := missing(each, folder))]
    print(f"{run}: {len(planned) - len(todo)} of {len(planned)} cells are kept already")
    if todo:
        examiner = Examiner(prompter, processor, topk=config.topk, max_answer_tokens=decoding["max_answer_tokens"])
        _ask(config, todo, examiner)
    list_cells(run, [each.cell for each in planned])
    return write_scores(run, config)


def write_scores(run: Path, config: EvaluateConfig) -> Scores:
    """Score the kept generations into ``scores.json``."""
    bootstrap = Bootstrap(resamples=config.resamples)
    scores = score_run(read_run(run, parser=config.parser), bootstrap=bootstrap)  # type: ignore[arg-type]
    partial = run / ".scores.json.partial"
    partial.write_text(json.dumps(scores, indent=1) + "\n")
    partial.rename(run / "scores.json")
    return scores


def _datasets(config: EvaluateConfig, unseen: list[DataConfig]) -> list[tuple[str, Dataset]]:
    named = [("in_domain", config.data), *(("unseen", data) for data in unseen)]
    limited = [(part, replace(data, limit=config.limit or data.limit)) for part, data in named]
    loaded = [(part, load_dataset(data, config.split)) for part, data in limited]
    for _, dataset in loaded:
        for note in dataset.notes:
            print(f"{dataset.name}: {note}")
    return loaded


def _ask(config: EvaluateConfig, todo: Work, examiner: Examiner) -> None:
    from sekd.inference.adapters import adapter_rank

    adapters = [each.adapter for each, _, _ in todo if each.adapter]
    own = Path(config.model.adapter) if config.model.adapter else None
    rank = max((adapter_rank(adapter) for adapter in [*adapters, *([own] if own else [])]), default=0)
    total = sum(len(examples) for _, _, examples in todo)
    with (
        Engine(config.model, config.engine, adapter=own, max_lora_rank=rank) as engine,
        tqdm(total=total, unit="image", disable=not config.progress, dynamic_ncols=True) as bar,
    ):
        for planned, folder, examples in todo:
            bar.set_description(_title(planned))
            unreadable = fill(
                planned,
                folder,
                examples,
                engine=engine,
                examiner=examiner,
                part_size=config.part_size,
                unreadable_share=config.unreadable_share,
                done=bar.update,
            )
            _tell(unreadable, bar)


def _title(planned: Planned) -> str:
    cell = planned.cell
    return " ".join(part for part in (cell.tree, cell.model, cell.seed, cell.paradigm) if part)


def _tell(unreadable: list[Unreadable], bar: Any) -> None:
    for image in unreadable:
        bar.write(f"left out: {image.reason}")


def unseen_names(config: EvaluateConfig) -> list[str]:
    """The unseen datasets' names: as asked for, or those usual for the dataset.

    Raises:
        SekdError: the dataset itself is among them.
    """
    names = config.usual_unseen.get(config.data.name, []) if config.unseen is None else config.unseen
    if config.data.name in names:
        raise SekdError(f"unseen={names} holds {config.data.name}, which is the dataset that was distilled on")
    return list(names)
