"""The embedded model's card: what it is, what it was trained on, how well it does, and the command that makes it."""

from typing import Any

from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS, UNSEEN

TEXT = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
---

# The embedded base model

A Qwen2.5-VL of {parameters:,} parameters (4 decoder layers of 128, 2 vision blocks of 96, images of 48 × 48 pixels)
with a word-level tokenizer. It knows the embedded world ({kingdoms}) and nothing
else; it is there so that the whole method can be run and tested anywhere. Weights are fp16.

    make base        # trains it again: {steps} steps in {rounds} rounds, {minutes} minutes on {threads} threads

## What it was trained on

{sequences:,} sequences, {tokens:,} tokens, about {pool:,} images that are not among the demo's. Sequences a step:

| lesson | sequences | what it is |
|---|---|---|
{mixture}

A whole path in one reply is seen in {joint_share:.2%} of the sequences, two of its levels in {pair_share:.2%}: the
joint format is rare, as it is for real models, and what the model is left to be taught is to use one answer of a reply
for the next. Some attention heads start as look-back and matching heads (`sekd/embedded/initialise.py`).

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
    "open_dialogue": "every level in turn, no options",
    "naming": "a single level's question with the name above it, answered name first, then letter",
    "single": "a single level's question without context",
    "told": "a single level's question with the name above it, answered letter first",
    "told_numbered": "the same, with a number before question and answer",
    "conditioned": "every level's question in turn, in one dialogue",
    "pair": "two levels in one prompt and reply, at one step in {pair_every}",
    "joint": "all levels in one prompt and reply, at one step in {joint_every}",
}


def card(facts: dict[str, Any], parameters: int) -> str:
    """The card in Markdown, from what ``pretrain`` returns."""
    rounds, mixture = facts["rounds"], facts["rounds"][0]["mixture"]
    seen = {count: sum(each["seen"][count] for each in rounds) for count in ("sequences", "tokens")}
    rows = [f"| {kind} | {mixture[kind]} | {what.format(**mixture)} |" for kind, what in LESSONS.items()]
    mixed = sum(each["settings"]["steps"] - each["settings"]["first_stage"] for each in rounds)
    shares = {
        f"{kind}_share": mixture[kind] * mixed / mixture[f"{kind}_every"] / seen["sequences"]
        for kind in ("pair", "joint")
    }
    scores = [
        f"| {kingdom} | {paradigm} | " + " | ".join(str(cell[column]) for column in ("hca", *LEVELS, "parsed")) + " |"
        for kingdom, paradigms in facts["exam"].items()
        for paradigm, cell in paradigms.items()
    ]
    return TEXT.format(
        parameters=parameters,
        kingdoms=", ".join((*IN_DOMAIN, *UNSEEN)),
        steps=" + ".join(f"{each['settings']['steps']:,}" for each in rounds),
        rounds=len(rounds),
        minutes=round(sum(each["minutes"] for each in rounds), 1),
        threads=rounds[0]["settings"]["threads"],
        pool=rounds[0]["settings"]["pool"],
        exam_images=facts["exam_images"],
        mixture="\n".join(rows),
        **shares,
        levels=" | ".join(LEVELS),
        rules="|---" * (len(LEVELS) - 1),
        scores="\n".join(scores),
        **seen,
    )
