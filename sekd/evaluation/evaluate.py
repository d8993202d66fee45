"""``make evaluate``: plan the cells, generate what is missing, then score everything that is stored.

A cell is one dataset, one model and one paradigm. Its digest covers what all its answers depend on: weights, adapter,
processor, wording, tree, decoding. An example's key covers the rest: its questions and its image. So neither a limit
nor an added image changes a digest, and an evaluation never changes another one's results.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from sekd.datasets import load_dataset
from sekd.datasets.base import Dataset, Example
from sekd.datasets.config import DataConfig
from sekd.datasets.images import undecodable
from sekd.errors import SekdError
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.generations import Cell, kept_keys, list_cells, read_refused
from sekd.evaluation.rescore import write_scores
from sekd.evaluation.scores import Bootstrap, Scores
from sekd.evaluation.students import BASE, TrainedStudent, check_adapter, find_students
from sekd.evaluation.workers import EvalTask, check_share, generate_all
from sekd.inference.strategies import ANSWER_LENGTH, STRATEGIES
from sekd.machine import require_vllm
from sekd.models import ADAPTER_FILES, digest, model_identity
from sekd.prompts import Prompter
from sekd.provenance import software
from sekd.store import fingerprint


def evaluate(config: EvaluateConfig, *, unseen: list[DataConfig]) -> Scores:
    """Generate the missing answers, write ``scores.json`` to the run folder, and return its content.

    Raises:
        SekdError: a setting, dataset, model or adapter that cannot be used, or too many unreadable images.
    """
    bootstrap = Bootstrap(config.resamples)
    _check(config, unseen)
    run = Path(config.runs) / config.name
    datasets = _datasets(config, unseen)
    students = find_students(run)
    for student in students:
        check_adapter(student.adapter, config.model)
    planned = plan(config, datasets, students)
    if any(task.examples for task in planned):
        require_vllm()
    left_out = _unreadable(config, planned)
    tasks = []
    for task in planned:
        examples = [example for example in task.examples if example.id not in left_out[task.dataset.name]]
        tasks += [replace(task, examples=examples)] if examples else []
    print(f"{run}: {len(planned) - len(tasks)} of {len(planned)} cells are kept already")
    total = sum(len(task.examples) for task in tasks)
    with tqdm(total=total, unit="image", disable=not (tasks and config.progress), dynamic_ncols=True) as bar:

        def done(title: str, count: int) -> None:
            bar.set_description(title, refresh=False)
            bar.update(count)

        unreadable = generate_all(config, tasks, done=done) if tasks else []
    for image in unreadable:
        if image.sample not in left_out[image.tree]:
            print(f"left out: {image.reason}")
        left_out[image.tree].add(image.sample)
    keys = {
        each.dataset.name: [key for sample, key in each.keys.items() if sample not in left_out[each.dataset.name]]
        for each in planned
    }
    # The tree of a question file is read from its true paths alone, so it may lack nodes that are among the options.
    trees = {each.name: each.taxonomy for _, each in datasets if each.examples[0].questions is None}
    list_cells(run, [each.cell for each in planned], keys, trees)
    return write_scores(run, bootstrap=bootstrap)


def plan(
    config: EvaluateConfig, datasets: Sequence[tuple[str, Dataset]], students: Sequence[TrainedStudent]
) -> list[EvalTask]:
    """Every cell in the order of the table: by tree, then base and students, then paradigm."""
    model, run = config.model, Path(config.runs) / config.name
    wording = {"wording": model.wording, **Prompter.named(model.wording).identity()}
    weights = model_identity(model)
    asked_of = config.asked_of_students
    who = [(BASE, "", None, config.base), *((each.name, each.seed, each.adapter, asked_of) for each in students)]
    tasks = []
    for part, dataset in datasets:
        data = {name: value for name, value in dataset.identity().items() if name != "items"}
        keys = {example.id: example_key(dataset, example) for example in dataset.examples}
        for name, seed, adapter, paradigms in who:
            identity = {
                "model": {**weights, "adapter": digest(adapter, ADAPTER_FILES)} if adapter else weights,
                "prompts": wording,
                "data": data,
                "decoding": {"topk": config.topk, "temperature": 0},
            }
            facts = {**identity, "base": model.path, "versions": software()["versions"]}
            for paradigm in paradigms:
                asked = {**identity, "paradigm": paradigm}
                if paradigm == "joint":
                    asked["answer_length"] = ANSWER_LENGTH
                cell = Cell(part, dataset.name, name, seed, paradigm, fingerprint(asked), str(dataset.root), facts)
                folder = run / "generations" / cell.folder
                kept = kept_keys(folder)
                missing = [example for example in dataset.examples if keys[example.id] not in kept]
                tasks.append(EvalTask(cell, dataset, adapter, keys, folder, missing))
    return tasks


def example_key(dataset: Dataset, example: Example) -> str:
    """Covers what an example's answers depend on beside its cell: its path or questions, and its image.

    The file's size detects a replaced image without reading it.
    """
    return fingerprint(
        {
            "id": example.id,
            "path": example.path,
            "questions": [vars(question) for question in example.questions or ()],
            "bytes": dataset.image_path(example).stat().st_size,
        }
    )


def _check(config: EvaluateConfig, unseen: Sequence[DataConfig]) -> None:
    for strategy in (*config.base, *config.asked_of_students):
        if strategy not in STRATEGIES:
            raise SekdError(f"{strategy!r} is no prompting strategy: choose among {', '.join(STRATEGIES)}")
    for setting in ("limit", "part_size", "topk"):
        value = getattr(config, setting)
        if value is not None and value < 1:
            raise SekdError(f"{setting}={value}: expected at least 1")
    # Answers and scores are kept by these names.
    _check_distinct("base", config.base)
    _check_distinct("student", config.asked_of_students)
    _check_distinct("the names of data and unseen", [each.name for each in (config.data, *unseen)])


def _check_distinct(setting: str, names: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SekdError(f"{setting}: [{', '.join(names)}] holds {', '.join(twice)} more than once; name each once")


def _datasets(config: EvaluateConfig, unseen: list[DataConfig]) -> list[tuple[str, Dataset]]:
    loaded = []
    for part, data in [("in_domain", config.data), *(("unseen", data) for data in unseen)]:
        if not data.labelled:
            raise SekdError(
                f"data {data.name} has no labels, so no answer can be scored: `make report` shows what is known, "
                "`make predict` names the images; DATA=… evaluates on labelled data"
            )
        # Answers are scored on questions about the true paths, also where the teacher had no label.
        data = replace(data, questions="labels", limit=data.limit if config.limit is None else config.limit)
        dataset = load_dataset(data, config.split)
        for note in dataset.notes:
            print(f"{dataset.name}: {note}")
        loaded.append((part, dataset))
    return loaded


def _unreadable(config: EvaluateConfig, tasks: list[EvalTask]) -> dict[str, set[str]]:
    """The samples, by tree, whose images do not decode or were refused by a model before, printed one by one; images
    with a generation in every cell are not checked.

    Raises:
        SekdError: they are more than the set share; no engine has been started.
    """
    found: dict[str, set[str]] = {}
    for name, dataset in {task.dataset.name: task.dataset for task in tasks}.items():
        wanted: dict[str, Example] = {}
        refused: dict[str, str] = {}
        for task in tasks:
            if task.dataset.name == name:
                known = read_refused(task.folder, room=config.engine.max_model_len)
                wanted |= {example.id: example for example in task.examples}
                refused |= {each.id: known[key] for each in task.examples if (key := task.keys[each.id]) in known}
        samples = {dataset.image_path(wanted[sample]): sample for sample in wanted if sample not in refused}
        # If few images are left, read them completely: an engine must not start for unreadable images only.
        whole = len(samples) <= config.unreadable_share * len(dataset.examples)
        bad = undecodable(list(samples), whole=whole, progress=config.progress)
        faults = [*(f"{path} ({fault})" for path, fault in bad.items()), *refused.values()]
        check_share(faults, dataset, config.unreadable_share)
        for fault in faults:
            print(f"left out: {fault}")
        found[name] = {samples[path] for path in bad} | refused.keys()
    return found


def unseen_names(config: EvaluateConfig) -> list[str]:
    """The unseen datasets' names: as configured, or the dataset's default.

    Raises:
        SekdError: the dataset itself is among them, or one is named twice.
    """
    names = config.usual_unseen.get(config.data.name, []) if config.unseen is None else config.unseen
    if config.data.name in names:
        raise SekdError(f"unseen={names} holds {config.data.name}, which is the dataset that was distilled on")
    _check_distinct("unseen", names)
    return list(names)
