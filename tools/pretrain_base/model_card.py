"""The model card of the embedded base model, written from ``training.json``."""

from typing import Any

from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS, UNSEEN

TEXT = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
---

# The embedded base model

A Qwen2.5-VL with {parameters:,} parameters (4 decoder layers of 128, 2 vision blocks of 96, images of 48 × 48 pixels)
and a word-level tokenizer. It knows only the embedded world ({kingdoms}). It exists so that the
whole method can be run and tested on any machine. The weights are fp16.

    make base        # trains it again: {steps} steps in {rounds} rounds, {minutes} minutes on {threads} threads

## Training data

{sequences:,} sequences, {tokens:,} tokens, about {pool:,} images. None of the images is in the demo's data.
Sequences a step:

| task | sequences | content |
|---|---|---|
{mixture}

A whole path in one reply makes up {joint_share:.2%} of the sequences, two levels in one reply {pair_share:.2%}.
The joint format is rare, as it is for real models. What remains to be learnt is to use one answer of a reply for the
next. Some attention heads are initialised as look-back and matching heads (`tools/pretrain_base/initialise.py`).

## Accuracy

Percent correct on {probe_images} fresh images, measured at the end of training. `make evaluate` gives the scores on
the demo's held-out images.

| kingdom | strategy | path | {levels} | parsed |
|---|---|---|---{rules}|---|
{scores}
"""

TASKS = {
    "caption": "kingdom and attributes of the image",
    "lineage": "the path of names, no options",
    "listing": "text only: lettered names, repeated by letter or by name",
    "open_dialogue": "one turn a level, no options",
    "naming": "a single-level question with the parent's name, answered name first, then letter",
    "single": "a single-level question without context",
    "told": "a single-level question with the parent's name, answered letter first",
    "told_numbered": "the same, with a number before question and answer",
    "conditioned": "one turn a level, with options",
    "pair": "two levels in one prompt and reply, every {pair_every} steps",
    "joint": "all levels in one prompt and reply, every {joint_every} steps",
}


def card(facts: dict[str, Any], parameters: int) -> str:
    """The card in Markdown.

    Args:
        facts: the content of ``training.json``.
        parameters: how many the model has.
    """
    rounds, mixture = facts["rounds"], facts["rounds"][0]["mixture"]
    seen = {count: sum(each["seen"][count] for each in rounds) for count in ("sequences", "tokens")}
    second_stage = sum(each["settings"]["steps"] - each["settings"]["first_stage"] for each in rounds)
    shares = {
        f"{task}_share": mixture[task] * second_stage / mixture[f"{task}_every"] / seen["sequences"]
        for task in ("pair", "joint")
    }
    scores = [
        f"| {kingdom} | {strategy} | " + " | ".join(str(cell[column]) for column in ("hca", *LEVELS, "parsed")) + " |"
        for kingdom, strategies in facts["exam"].items()
        for strategy, cell in strategies.items()
    ]
    return TEXT.format(
        parameters=parameters,
        kingdoms=", ".join((*IN_DOMAIN, *UNSEEN)),
        steps=" + ".join(f"{each['settings']['steps']:,}" for each in rounds),
        rounds=len(rounds),
        minutes=round(sum(each["minutes"] for each in rounds), 1),
        threads=rounds[0]["settings"]["threads"],
        pool=rounds[0]["settings"]["pool"],
        probe_images=facts["exam_images"],
        mixture="\n".join(f"| {task} | {mixture[task]} | {text.format(**mixture)} |" for task, text in TASKS.items()),
        **shares,
        levels=" | ".join(LEVELS),
        rules="|---" * (len(LEVELS) - 1),
        scores="\n".join(scores),
        **seen,
    )
