"""The cards of what is shared: ``README.md`` as model hubs show it, from recorded files alone."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

from sekd.evaluation.report import sections
from sekd.evaluation.report.curves import training_curves
from sekd.evaluation.report.document import Section, Table, as_markdown, images
from sekd.evaluation.rescore import FILE, read_scores
from sekd.evaluation.students import STUDENT, TrainedStudent, find_students
from sekd.evaluation.table import METRIC_TITLES, sentence, trees
from sekd.recent import read_settings
from sekd.store import Store

EVALUATED = "\n# Evaluation\n"  # begins the part of a card that an evaluation adds
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(training: Path, licence: str | None) -> tuple[str, dict[str, bytes]]:
    """A student's card and its plots by file name.

    The text that the training wrote beside the adapter, with metadata and, where ``make evaluate`` scored this student,
    its scores and plots. A card of a pulled student that was not evaluated here stays as it is.
    """
    card = ModelCard.load(training / "adapter" / "README.md", ignore_metadata_errors=True)
    student, scores = _scores(training)
    if EVALUATED in card.text and not scores:
        return card.content, {}
    settings = read_settings(training)
    base, data = settings["model"]["path"], settings["data"]["name"]
    in_one_pass = {tree: models[STUDENT]["joint"] for _, tree, models in trees(scores)} if scores else {}
    results = [
        EvalResult("image-text-to-text", data, f"{data}, {tree}", name, value, metric_name=METRIC_TITLES[name])
        for tree, cell in in_one_pass.items()
        for name, value in _own(cell, student.seed).items()
        if value is not None
    ]
    metadata = ModelCardData(
        base_model=base if HUB_NAME.fullmatch(base) and not Path(base).is_dir() else None,
        license=licence or _licence(base),
        library_name="peft",
        pipeline_tag="image-text-to-text",
        tags=["lora", "sekd", "knowledge-distillation", "visual-question-answering"],
        datasets=[data],
        metrics=list(METRIC_TITLES) if results else None,
        model_name=settings["name"] if results else None,
        store_fingerprint=settings["fingerprint"],
        eval_results=results or None,
    )
    shown = _shown(student, in_one_pass, scores, training)
    text = card.text.partition(EVALUATED)[0].strip()
    summary = sentence(scores) if scores else "This student has not been evaluated on test images."
    text += "\n" + as_markdown("Evaluation", summary, shown, folder="plots").join(("\n", ""))
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}", images(shown)


def _shown(
    student: TrainedStudent, in_one_pass: dict[str, Any], scores: dict[str, Any] | None, training: Path
) -> list[Section]:
    """The report's sections on this student."""
    found = [training_curves([replace(student, adapter=training / "adapter")])]
    if scores:
        found = [sections.headline(scores), sections.all_metrics(scores), sections.calibration(scores), *found]
    if any("seeds" in cell for cell in in_one_pass.values()):
        rows = [(tree, cell["n"], *_own(cell, student.seed).values()) for tree, cell in in_one_pass.items()]
        n = max(len(cell.get("seeds", ())) for cell in in_one_pass.values())
        table = Table("In one pass", ("tree", "images", *(f"{title} %" for title in METRIC_TITLES.values())), rows)
        text = [f"The scores above are means over {n} trainings, and ± their standard deviation."]
        found.insert(0, Section("training-scores", f"This training, {student.seed}", text, [table]))
    return [section for section in found if section]


def _own(cell: dict[str, Any], seed: str) -> dict[str, float | None]:
    """The scores of one of the trainings that a cell is the mean of."""
    found = cell.get("seeds", {}).get(seed, cell)
    return {name: found[name] for name in METRIC_TITLES}


def _scores(training: Path) -> tuple[TrainedStudent, dict[str, Any] | None]:
    """The student's name in its run, and the scores of it and its base; None where it was not evaluated."""
    here = TrainedStudent(STUDENT, "", training / "adapter")
    for run in (training, *training.parents):
        if (run / FILE).is_file():
            student = next((each for each in find_students(run) if each.training == training), here)
            scores = read_scores(run)
            for models in (scores["in_domain"], *scores["unseen"].values()):
                kept = {"base": models.get("base"), STUDENT: models.get(student.name)}
                models.clear()
                models.update({name: ways for name, ways in kept.items() if ways})
            whole = all("joint" in models.get(STUDENT, {}) for _, _, models in trees(scores))
            return student, scores if whole else None
    return here, None


def _licence(base: str) -> str | None:
    """The base's licence, as its own card on this machine states it."""
    card = Path(base, "README.md") if Path(base).is_dir() else try_to_load_from_cache(base, "README.md")
    if not isinstance(card, str | Path) or not Path(card).is_file():
        return None
    return ModelCard.load(card, ignore_metadata_errors=True).data.license


def dataset_card(store: Store, licence: str | None) -> str:
    """A store's card, by which a hub shows its rows as a table."""
    entries = [store.entry(index) for index in range(store.plan.n_shards)]
    layout, identity, name = store.layout, store.identity, store.path.parent.name
    metadata = DatasetCardData(
        license=licence,
        pretty_name=f"Answers of a {store.paradigm} teacher to {name}",
        tags=["sekd", "knowledge-distillation", "logprobs", "hidden-states"],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": "shards/*/targets.parquet"}]},
        ],
    )
    facts = {
        "fingerprint": f"`{store.fingerprint}`",
        "prompting strategy": store.paradigm,
        "labels used as targets": "yes" if identity.get("uses_labels") else "no",
        "images": f"{store.plan.n_examples:,}, {sum(len(entry.skipped) for entry in entries)} of them skipped",
        "rows": f"{sum(entry.rows for entry in entries):,} (image, level) steps in {len(entries)} shards",
        "stored of each": f"answer, {layout.k} candidates, {len(layout.layers)} layers of {layout.hidden_size} "
        f"{layout.hidden_dtype}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
{metadata.to_yaml()}
---

# {metadata.pretty_name}

A teacher's pass of self-elicited knowledge distillation (arXiv 2511.18415): what a vision-language model answered
level by level, from which a student of the same model learns to answer all levels at once. It holds no images.

| | |
|---|---|
{table}

`shards/*/targets.parquet` holds one row a step, `shards/*/hidden.zarr` the hidden states in the same order. Reading
executes nothing. With SEKD, `make pull WHERE=…` checks every byte and puts it where `make student` finds it.

What the answers depend on (`identity` in `manifest.json`):

```json
{json.dumps(identity, indent=1, ensure_ascii=False)}
```
"""
