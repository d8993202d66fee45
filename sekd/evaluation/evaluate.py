"""``make evaluate``: generate what is missing, then score everything that is stored."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from sekd.datasets import load_dataset
from sekd.datasets.base import Dataset, Example
from sekd.datasets.config import DataConfig
from sekd.datasets.images import undecodable
from sekd.errors import SekdError
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.eval_tasks import EvalTask, plan
from sekd.evaluation.generate import check_share
from sekd.evaluation.generations import list_cells, read_refused
from sekd.evaluation.rescore import write_scores
from sekd.evaluation.scores import Bootstrap, Scores
from sekd.evaluation.students import check_adapter, find_students
from sekd.evaluation.workers import generate_all
from sekd.inference.strategies import STRATEGIES


def evaluate(config: EvaluateConfig, *, unseen: list[DataConfig]) -> Scores:
    """Generate the missing answers, write ``scores.json`` to the run folder, and return its content.

    Raises:
        SekdError: a dataset, model or adapter that cannot be used, or too many unreadable images.
    """
    for strategy in (*config.base, *config.asked_of_students):
        if strategy not in STRATEGIES:
            raise SekdError(f"{strategy!r} is no prompting strategy: choose among {', '.join(STRATEGIES)}")
    run = Path(config.runs) / config.name
    datasets = _datasets(config, unseen)
    students = find_students(run)
    for student in students:
        check_adapter(student.adapter, config.model)
    planned = plan(
        config.model,
        datasets,
        students,
        base=config.base,
        student=config.asked_of_students,
        decoding={"topk": config.topk, "temperature": 0},
        generations=run / "generations",
    )
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
    return write_scores(run, bootstrap=Bootstrap(config.resamples), parser=config.parser)  # type: ignore[arg-type]


def _datasets(config: EvaluateConfig, unseen: list[DataConfig]) -> list[tuple[str, Dataset]]:
    loaded = []
    for part, data in [("in_domain", config.data), *(("unseen", data) for data in unseen)]:
        if not data.labelled:
            raise SekdError(
                f"data {data.name} has no labels, so no answer can be scored: `make report` shows what is known, "
                "`make predict` names the images; DATA=… evaluates on labelled data"
            )
        # Answers are scored on questions about the true paths, also where the teacher had no label.
        data = replace(data, questions="labels", limit=config.limit or data.limit)
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
        SekdError: the dataset itself is among them.
    """
    names = config.usual_unseen.get(config.data.name, []) if config.unseen is None else config.unseen
    if config.data.name in names:
        raise SekdError(f"unseen={names} holds {config.data.name}, which is the dataset that was distilled on")
    return list(names)
