"""The embedded model's card: what it is, what it was trained on, how well it does, and the command that makes it."""

from typing import Any

from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS, UNSEEN

TEXT = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
---

# The embedded base model

A Qwen2.5-VL of {parameters:,} parameters (5 decoder layers of 128, 2 vision blocks of 96, images of 48 × 48 pixels)
with a word-level tokenizer. It knows the embedded world ({kingdoms}) and nothing else; it is there so that the
whole method can be run and tested anywhere. Weights are fp16.

    make base        # trains it again: {steps:,} steps, {minutes} minutes on {threads} threads, seed {seed}

## What it was trained on

{sequences:,} sequences, {tokens:,} tokens, about {pool:,} images that are not among the demo's. Sequences a step:

| lesson | a step | what it is |
|---|---|---|
{mixture}

In no lesson but the joint one ({joint_share:.2%} of the sequences) does a single reply hold two levels of one
taxonomy. Quizzes teach which answer slot belongs to which question; that an answer in a reply bears on the next is
what the model is left to be taught. Some attention heads start as look-back and matching heads
(`sekd/embedded/initialise.py`).

## How well it does

Percent right on {exam_images} fresh images, as examined at the end of training (`make evaluate` gives the scores on
the demo's held-out images):

| kingdom | asked | path | {levels} | parsed |
|---|---|---|---{rules}|---|
{scores}
"""

LESSONS = {
    "caption": "kingdom and attributes of the image",
    "lineage": "the path of names, no options",
    "listing": "text only: lettered names recited by letter or by name",
    "open_level": "one level's name, the names above it known, no options",
    "open_attribute": "one attribute, no options",
    "reading": "a question whose answer the prompt states",
    "seeing": "a question about one attribute",
    "naming": "a question answered name first, then letter",
    "single": "a single level's question without context",
    "conditioned": "a level's question, the names above it known (this many at each of three levels)",
    "quiz": "1 to 4 questions in one prompt and reply: attributes, and one level of the taxonomy",
    "joint": "all levels of a path in one prompt and reply (one step in {joint_every})",
}


def card(facts: dict[str, Any], parameters: int) -> str:
    """The card in Markdown, from what ``pretrain`` returns."""
    mixture, settings, seen = facts["mixture"], facts["settings"], facts["seen"]
    rows = [f"| {kind} | {mixture[kind]} | {what.format(**mixture)} |" for kind, what in LESSONS.items()]
    second_stage = settings["steps"] - settings["first_stage"]
    scores = [
        f"| {kingdom} | {paradigm} | " + " | ".join(str(cell[column]) for column in ("hca", *LEVELS, "parsed")) + " |"
        for kingdom, paradigms in facts["exam"].items()
        for paradigm, cell in paradigms.items()
    ]
    return TEXT.format(
        parameters=parameters,
        kingdoms=", ".join((*IN_DOMAIN, *UNSEEN)),
        minutes=facts["minutes"],
        threads=facts["threads"],
        exam_images=facts["exam_images"],
        mixture="\n".join(rows),
        joint_share=mixture["joint"] * second_stage / mixture["joint_every"] / seen["sequences"],
        levels=" | ".join(LEVELS),
        rules="|---" * (len(LEVELS) - 1),
        scores="\n".join(scores),
        **settings,
        **seen,
    )
