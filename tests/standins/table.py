"""``make families``: every command on a stand-in of every family, as it is typed; the outcome goes to docs/models.md.

Each family has a folder of its own with its stand-in, a few photos, and what the commands make there. A cell is "ok" or
the first line of the error. With --folder families can be run one by one: what ended well is not run again, and what
was not run keeps its cell on the page.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sekd.inference.config import EngineConfig
from sekd.models import SETTINGS, load_processor
from standins import build, write_photos
from standins.photos import RANKS

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "models.md"
# A stand-in, and the entry of conf/model whose place it takes.
FAMILIES = {
    "qwen2_5_vl": "qwen2_5_vl_7b",
    "qwen2_5_vl_tied": "qwen2_5_vl_3b",
    "qwen3_vl": "qwen3_vl_8b",
    "qwen3_vl_tied": "qwen3_vl_4b",
    "internvl3": "internvl3_8b",
    "internvl2_5": "internvl2_5_8b",
    "llava_onevision": "llava_onevision_7b",
    "llava1_6": "llava1_6_7b",
    "llava1_5": "llava1_5_7b",
}
KINDS = ("odd", "square", "grey", "rotated", "transparent")  # three to learn from, two to be asked about
OUTCOMES = "outcomes.json"
# Columns of their own table: settings of the commands, and what runs with them.
TRIED = {
    "own process": "teacher and evaluate with `engine.in_process=false`",
    "two workers": "teacher and evaluate with two engines",
    "merged": "the merged student as the model of another pass in vLLM and of another student in transformers",
    "float32": "teacher, student (asked by adapter in transformers) and evaluate (by adapter in vLLM) in float32",
}
LIMIT = 1800  # seconds a command
QUESTIONS = (
    f"data.levels=[{','.join(RANKS[:4])}] "
    "data.splits.train=photos.json@0-60% data.splits.val=null data.splits.test=photos.json@60-100%"
)
ENGINE = "engine.kv_cache_gb=0.125 engine.max_model_len=4096 engine.max_num_seqs=8 engine.image_cache_gb=0.25"
LEARN = (
    "lora.rank=8 optim.batch_size=3 optim.accumulate=1 trainer.max_steps=1 stream.workers=1 "
    "validation.held_out=0 validation.images=1 validation.split=train"
)
STEP = f"{LEARN} trainer.precision=bf16-mixed validation.times=0"
# lmms-eval takes the larger of this max_new_tokens and the task's. The memory is a share of the machine's. Without
# torchvision there is no video processor.
ON_CPU = 'max_new_tokens=1,gpu_memory_utilization=0.1,enforce_eager=True,limit_mm_per_prompt={"video":0}'
HARNESS = f"--max-model-len 4096 --arguments '{ON_CPU}'"


def commands(folder: Path, entry: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The page's columns: a command, or what is tried; and what follows each ``make`` of it."""
    named = [f"MODEL={entry}", "DATA=inat", f"ROOT={folder / 'photos'}"]
    model = f"model.path={folder / 'model'} {QUESTIONS}"
    evaluate = f"{ENGINE} unseen=[] resamples=10"

    def teacher(settings: str = "", *, workers: int = 1, model: str = model) -> list[str]:
        return ["teacher", *named, f"WORKERS={workers}", f"ARGS={model} {ENGINE} {settings}"]

    yield "preview", [["preview", *named, f"ARGS={model} count=2"]]
    yield "teacher", [teacher()]
    yield "verify", [["verify"]]
    yield "student", [["student", f"ARGS={STEP}"]]
    yield "evaluate", [["evaluate", f"ARGS={evaluate} limit=1 workers=1"]]
    yield "merge", [["merge"]]
    yield "report", [["report"]]
    yield "predict", [["predict", f"IMAGES={folder / 'photos'}"]]
    yield (
        "general",
        [
            ["lmms-task", *named, f"ARGS={model} out=task"],
            ["general", "TASKS=taxonomy_inat", f"ARGS=--include-path task --limit 1 {HARNESS}"],
        ],
    )
    yield (
        "own process",
        [
            teacher("topk=4 engine.in_process=false"),
            ["evaluate", f"ARGS={evaluate} base=[guided] student=[] limit=1 workers=1 engine.in_process=false"],
        ],
    )
    yield (
        "two workers",
        [teacher("topk=5 shard_size=2", workers=2), ["evaluate", f"ARGS={evaluate} limit=2 workers=2"]],
    )
    merged = next(folder.glob("runs/**/merged"), folder)
    yield (
        "merged",
        [
            teacher(model=f"'model.path=\"{merged}\"' {QUESTIONS}"),  # a run's name may hold = and ,
            ["student", "RUN=of_merged", f"ARGS={LEARN} trainer.precision=bf16-mixed validation.times=1"],
        ],
    )
    yield (
        "float32",
        [
            teacher("model.dtype=float32"),
            ["student", "RUN=float32", f"ARGS={LEARN} trainer.precision=32-true validation.times=1"],
            ["evaluate", "RUN=float32", f"ARGS={evaluate} limit=1 workers=1"],
        ],
    )
    yield "sweep", [["sweep", f"ARGS=loss=soft,hidden {STEP}"]]
    yield "controls", [["controls", *named, "WORKERS=1", "PARADIGMS=joint", "SEEDS=0", f"ARGS={model} {STEP}"]]


def run(family: str, folder: Path) -> None:
    """Every command in turn that has not ended well in this folder before."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for name in (".venv", ".venv-general", "pyproject.toml"):
            if (REPOSITORY / name).exists():
                (folder / name).symlink_to(REPOSITORY / name)
        build(family, folder / "model", dtype="bfloat16")
        write_photos(folder / "photos", kinds=KINDS)
    outcomes = read_outcomes(folder)
    for name, arguments in commands(folder, FAMILIES[family]):
        if outcomes.get(name) == "ok":
            continue
        for number, each in enumerate(arguments):
            command = ["make", "-f", str(REPOSITORY / "Makefile"), *each]
            outcomes[name] = outcome(command, folder, folder / f"{name.replace(' ', '_')}-{number}.log")
            if outcomes[name] != "ok":
                break
        (folder / OUTCOMES).write_text(json.dumps(outcomes, indent=1))
        print(f"{family} {name}: {outcomes[name]}", flush=True)


def read_outcomes(folder: Path) -> dict[str, str]:
    """By command; empty where none was run."""
    return json.loads((folder / OUTCOMES).read_text()) if (folder / OUTCOMES).exists() else {}


def outcome(command: list[str], folder: Path, log: Path) -> str:
    """ "ok", or the first line of what the command says is wrong; all it says is in the log."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # as a user has it
    with log.open("w") as stream:
        try:
            ended = subprocess.run(
                command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, timeout=LIMIT, env=environment
            )
        except subprocess.TimeoutExpired:
            return f"did not end within {LIMIT} seconds"
    if ended.returncode == 0:
        return "ok"
    said = [line for line in log.read_text().splitlines() if line.strip() and not line.startswith("make")]
    errors = [line for line in said if line.startswith("error:")]
    return (errors or said[-1:] or [f"exit status {ended.returncode}"])[0]


def supported(family: str) -> dict[str, str]:
    """What vLLM's class of the model and its image processor can do."""
    from sekd.inference.engine import prepare_environment

    model = build(family, Path(tempfile.mkdtemp(prefix=family)) / "model", dtype="bfloat16")
    engine = EngineConfig()
    prepare_environment(model, engine)
    from vllm import EngineArgs
    from vllm.model_executor.models.interfaces import supports_eagle3, supports_lora

    from sekd.inference import plugin
    from sekd.inference.settings import engine_arguments

    plugin.load()
    config = EngineArgs(**engine_arguments(model, engine, max_lora_rank=0)).create_model_config()
    served, _ = config.registry.resolve_model_cls(config.architectures, config)
    known = type(load_processor(model).image_processor).valid_kwargs.__annotations__
    bounds = [f"`model.{setting}`" for setting, name in SETTINGS.items() if name in known]
    states = supports_eagle3(served)
    return {
        "losses": "hard, soft, hidden" if states else "hard, soft",
        "layers": "0 to the last" if states else "none",
        "LoRA in vLLM": "yes" if supports_lora(served) else "no, `make merge`",
        "bound on an image": ", ".join(bounds) or "none, the model fixes it",
    }


def read_page(text: str) -> dict[str, dict[str, str]]:
    """By family what a page holds in its tables, by the tables' columns."""
    families = {f"`{entry}`": family for family, entry in FAMILIES.items()}
    found: dict[str, dict[str, str]] = {family: {} for family in FAMILIES}
    head: list[str] = []
    for line in text.splitlines():
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if first == "`MODEL=`":
            head = cells
        elif first in families:
            found[families[first]] |= dict(zip(head, cells, strict=True))
    return found


def page(ran: dict[str, dict[str, str]], able: dict[str, dict[str, str]]) -> str:
    """The page, from each family's outcomes by command, and what it supports."""
    typed = [name for name, _ in commands(Path(), "") if name not in TRIED]
    kinds = list(next(iter(able.values())))

    def ended(names: Iterable[str]) -> list[str]:
        rows = [[f"`{FAMILIES[one]}`", *(ran[one].get(name, "not run") for name in names)] for one in FAMILIES]
        return _table(["`MODEL=`", *names], rows)

    can = [[f"`{FAMILIES[one]}`", *able[one].values()] for one in FAMILIES]
    return "\n".join(
        [
            "# Models and commands",
            "",
            "`make families` writes this page. Each command was run as it is typed, on CPU, in bfloat16, on a stand-in",
            "of the model: the released architecture, processor class, vocabulary size, special tokens and image",
            "bounds, with a few small layers of random weights, and on five photos. A cell that is not ok holds the",
            'error; "not run" is not known yet. A family that is not run again keeps its row, which may be of an',
            "earlier version. **No released weights were run.** `make test` takes a stand-in of",
            "Qwen2.5-VL, Qwen3-VL, InternVL3 and LLaVA-OneVision through teacher, verify, student, merge and",
            "evaluate, and holds the engine's answers and hidden states of all families to those of transformers.",
            "",
            *ended(typed),
            "",
            "## Other ways to run them",
            "",
            *_table(["", "what was run"], [[name, what] for name, what in TRIED.items()]),
            "",
            *ended(TRIED),
            "",
            "## What each family supports",
            "",
            *_table(["`MODEL=`", *kinds], can),
            "",
            "Layers are numbered as in transformers' `hidden_states`; 0 is the embeddings. `make merge` writes a",
            "student as a model of its own, which needs no LoRA support. Other sizes of a family use the same classes.",
            "",
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m standins.table", description=__doc__)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; by default all")
    parser.add_argument("--folder", type=Path, help="where the families' folders are made; by default a temporary one")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="families-"))).resolve()
    for family in arguments.families or FAMILIES:
        run(family, folder / family)
    write_page(folder)


def write_page(folder: Path) -> None:
    """Write the page from the folder's outcomes; what was not run there keeps the outcome that the page has."""
    before = read_page(PAGE.read_text())
    ran = {family: before[family] | read_outcomes(folder / family) for family in FAMILIES}
    PAGE.write_text(page(ran, {family: supported(family) for family in FAMILIES}))


if __name__ == "__main__":
    main()
