"""The model card of the embedded base model, written from ``training.json``."""

from typing import Any

from sekd.embedded.trees import World
from tools.pretrain_base.tiny_vlm import config

TEXT = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
---

# {title}

A Qwen2.5-VL with {parameters:,} parameters ({layers} decoder layers of {hidden}, 2 vision blocks of 96, \
images of 48 × 48 pixels)
and a word-level tokenizer. It knows only {known} ({trees}). {purpose}

    make base{arguments}        # trains it again: {steps} steps in {rounds}, {minutes} minutes on {threads}

## Training data

{sequences:,} sequences, {tokens:,} tokens, about {pool:,} images. None of the images is in the demo's data.
Sequences a step:

| task | sequences | content |
|---|---|---|
{mixture}
{auxiliary}
{whole_path} in one reply makes up {joint_share:.2%} of the sequences{pairs}.
The joint format is rare, as it is for real models. {joint_replies}
Some attention heads are initialised as look-back and matching heads (`tools/pretrain_base/initialise.py`).

## Accuracy

Percent correct on {probe_images} fresh images, measured at the end of training. `make evaluate` gives the scores on
{data} held-out images.

| {tree} | strategy | path | {levels} | parsed |
|---|---|---|---{rules}|---|
{scores}
"""

AUXILIARY = """
The first {first} steps have captions and lineages of {images} images and listings alone. Later steps have auxiliary
losses at each letter that comes before its name (`tools/pretrain_base/auxiliary.py`).
"""

# What differs between the worlds' cards.
WORDS = {
    "demo": {
        "title": "The embedded base model",
        "known": "the embedded world",
        "joint_replies": "What remains to be learnt is to use one answer of a reply for the next.",
        "purpose": "It exists so that the\nwhole method can be run and tested on any machine. The weights are fp16.",
        "arguments": "",
        "tree": "kingdom",
        "data": "the demo's",
    },
    "forest": {
        "title": "The base model of many trees",
        "known": "the world of many trees",
        "joint_replies": "Of its replies only the first answer is a target;\nthe rest teaches their form. "
        "What remains to be learnt is to use one answer of a reply for the next.",
        "purpose": "It exists to ask\nwhat the number of taxonomies distilled on changes. The weights are fp16.",
        "arguments": ' ARGS="--world forest"',
        "tree": "tree",
        "data": "the world's",
    },
}
TASKS = {
    "caption": "{tree} and attributes of the image",
    "lineage": "the path of names, no options",
    "listing": "text only: lettered names, repeated by letter or by name",
    "open_dialogue": "one turn a level, no options",
    "naming": "a single-level question with the parent's name, answered name first, then letter",
    "single": "a single-level question without context",
    "told": "a single-level question with the parent's name, answered letter first",
    "told_numbered": "the same, with a number before question and answer",
    "conditioned": "one turn a level, with options",
    "pair": "two levels in one prompt and reply, every {pair_every} steps",
    "told_joint": "all levels in one prompt and reply, each below the first with its parent's name",
    "joint": "all levels in one prompt and reply, every {joint_every} steps",
}


def card(facts: dict[str, Any], world: World, parameters: int) -> str:
    """The card in Markdown.

    Args:
        facts: the content of ``training.json``.
        world: what the model knows.
        parameters: how many the model has.
    """
    rounds, mixture, words = facts["rounds"], facts["rounds"][0]["mixture"], WORDS[world.name]
    seen = {count: sum(each["seen"][count] for each in rounds) for count in ("sequences", "tokens")}
    settings, threads = rounds[0]["settings"], max(each["settings"]["threads"] for each in rounds)
    with_auxiliary = any(each["settings"].get("auxiliary") for each in rounds)
    last_stage = sum(each["settings"]["steps"] - each["settings"]["first_stage"] for each in rounds)
    shares = {
        task: mixture[task] * last_stage / mixture[f"{task}_every"] / seen["sequences"] for task in ("pair", "joint")
    }
    columns = ("hca", *world.levels, "parsed")
    scores = [
        f"| {tree} | {strategy} | " + " | ".join(str(cell.get(column, "")) for column in columns) + " |"
        for tree, strategies in facts["exam"].items()
        for strategy, cell in strategies.items()
    ]
    rows = [
        f"| {task} | {mixture[task]} | {text.format(**words, **mixture)} |"
        for task, text in TASKS.items()
        if mixture.get(task)
    ]
    text = config(world).text_config
    return TEXT.format(
        parameters=parameters,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        trees=", ".join((*world.in_domain, *world.unseen)),
        steps=" + ".join(f"{each['settings']['steps']:,}" for each in rounds),
        rounds=f"{len(rounds)} round{'s' * (len(rounds) > 1)}",
        minutes=round(sum(each["minutes"] for each in rounds), 1),
        threads=f"{threads} thread{'s' * (threads > 1)}",
        pool=settings["pool"],
        probe_images=facts["exam_images"],
        mixture="\n".join(rows),
        auxiliary=AUXILIARY.format(first=settings["first_stage"], images=settings["images"]) if with_auxiliary else "",
        whole_path="Without parents' names, a whole path" if mixture.get("told_joint") else "A whole path",
        joint_share=shares["joint"],
        pairs=f", two levels in one reply {shares['pair']:.2%}" if mixture["pair"] else "",
        levels=" | ".join(world.levels),
        rules="|---" * (len(world.levels) - 1),
        scores="\n".join(scores),
        **seen,
        **words,
    )
