"""The whole of ``make evaluate``: what is missing is asked on one engine, then all is scored from what is kept."""

import json
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from sekd.datasets import load_dataset
from sekd.datasets.base import Dataset
from sekd.datasets.config import DataConfig
from sekd.datasets.images import undecodable
from sekd.errors import SekdError
from sekd.evaluation.adapters import check_adapter
from sekd.evaluation.asking import WAYS, longest_answer
from sekd.evaluation.cells import answering, check_share, missing, plan
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.generations import list_cells
from sekd.evaluation.scores import Bootstrap, Scores, read_run, score_run
from sekd.evaluation.students import find_students
from sekd.evaluation.workers import Job, ask_all
from sekd.models import load_processor
from sekd.prompts import Prompter


def evaluate(config: EvaluateConfig, *, unseen: list[DataConfig]) -> Scores:
    """Ask what is not kept yet, write ``scores.json`` into the run folder, and return what stands in it.

    Raises:
        SekdError: a dataset, model or adapter that cannot be used, or too many unreadable images.
    """
    for way in (*config.base, *config.student):
        if way not in WAYS:
            raise SekdError(f"{way!r} is no way of asking: choose among {', '.join(WAYS)}")
    run = Path(config.runs) / config.name
    datasets = _datasets(config, unseen)
    students = find_students(run)
    for student in students:
        check_adapter(student.adapter, config.model)
    prompter, processor = Prompter.named(config.model.wording), load_processor(config.model)
    most = 64 + 2 * max(longest_answer(prompter, processor.tokenizer, dataset) for _, dataset in datasets)
    who = answering(students, base=config.base, student=config.student)
    decoding = {"max_answer_tokens": most, "topk": config.topk, "temperature": 0}
    planned = plan(config.model, datasets, who, decoding=decoding)
    folders = [run / "generations" / each.cell.folder for each in planned]
    jobs = [Job(each, folder, missing(each, folder)) for each, folder in zip(planned, folders, strict=True)]
    jobs = [job for job in jobs if job.examples]
    print(f"{run}: {len(planned) - len(jobs)} of {len(planned)} cells are kept already")
    if jobs:
        _look_at_images(config, jobs)
        _ask(config, jobs, max_answer_tokens=most)
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


def _look_at_images(config: EvaluateConfig, jobs: list[Job]) -> None:
    """Too many unreadable images end the evaluation before an engine starts."""
    for dataset in {job.planned.dataset.name: job.planned.dataset for job in jobs}.values():
        bad = undecodable([dataset.image_path(example) for example in dataset.examples], progress=config.progress)
        check_share([f"{path} ({fault})" for path, fault in bad.items()], dataset, config.unreadable_share)


def _ask(config: EvaluateConfig, jobs: list[Job], *, max_answer_tokens: int) -> None:
    total = sum(len(job.examples) for job in jobs)
    with tqdm(total=total, unit="image", disable=not config.progress, dynamic_ncols=True) as bar:

        def asked(title: str, count: int) -> None:
            bar.set_description(title, refresh=False)
            bar.update(count)

        unreadable = ask_all(config, jobs, max_answer_tokens=max_answer_tokens, asked=asked)
    for image in unreadable:
        print(f"left out: {image.reason}")


def unseen_names(config: EvaluateConfig) -> list[str]:
    """The unseen datasets' names: as asked for, or those usual for the dataset.

    Raises:
        SekdError: the dataset itself is among them.
    """
    names = config.usual_unseen.get(config.data.name, []) if config.unseen is None else config.unseen
    if config.data.name in names:
        raise SekdError(f"unseen={names} holds {config.data.name}, which is the dataset that was distilled on")
    return list(names)
