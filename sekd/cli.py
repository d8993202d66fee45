"""The command ``sekd``: what each of its commands runs, and with which arguments. `make` runs the same.

A command's module is named here and started as ``python -m`` in a process of its own: this module imports no stage.
``sekd teacher DATA=inat topk=8`` mixes words in capitals, the same as those of `make`, with the module's own settings.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from sekd.errors import SekdError, exit_on_error
from sekd.machine import embedded_world, engine_extra, usual_engines

# Command -> its module, the words it takes, and its line of help.
COMMON = "DATA MODEL ROOT TAXONOMY"
RUN = "DATA MODEL RUN"
COMMANDS = {
    "demo": ("", "WORKERS", "the effect on the embedded world: teacher, student, evaluation, report"),
    "world": ("sekd.embedded.world", "", "render the embedded world to data/demo"),
    "preview": ("sekd.preview", COMMON, "show a dozen images with their questions and prompts"),
    "teacher": ("stage1_teacher", f"{COMMON} WORKERS CLUSTER", "stage 1: the teacher's pass, stored in artifacts/"),
    "verify": ("sekd.store.verify", "DATA", "check every byte of the stored passes"),
    "student": ("stage2_student", f"{COMMON} RUN", "stage 2: distil a LoRA student from the stored pass"),
    "sweep": ("stage2_student", COMMON, "the losses over seeds, or any grid: loss=all,hard seed=0,1"),
    "compare": ("stage2_student.compare", "", "one table of all students: mean and spread over seeds, best first"),
    "controls": ("", f"{COMMON} WORKERS PARADIGMS SEEDS", "the student of other teachers: independent, …, labels"),
    "evaluate": ("sekd.evaluation", f"{COMMON} RUN", "base and student, all paradigms, in-domain and unseen"),
    "report": ("sekd.evaluation.report", RUN, "the evaluated run's report.html"),
    "general": ("sekd.evaluation.general", f"{RUN} TASKS", "what the student forgot: TASKS=mmmu_val, or own skills"),
    "merge": ("stage2_student.merge", RUN, "write the student merged into its base, for tools without adapters"),
    "lmms-task": ("sekd.evaluation.general.export", COMMON, "DATA's questions as a task of lmms-eval, for any model"),
    "predict": ("sekd.evaluation.predict", f"{RUN} TAXONOMY IMAGES", 'name your own images: IMAGES="photos/ one.jpg"'),
    "push": ("sekd.share", f"{RUN} WHAT WHERE", "send a student, or WHAT=artifacts/…, to WHERE=owner/name, s3://…"),
    "pull": ("sekd.share", "WHERE", "fetch what was pushed, from WHERE"),
    "init": ("sekd.project", "", "make a project folder: a copy of the settings, and a Makefile"),
    "doctor": ("sekd.doctor", "", "what is installed, what fits this machine, and what is missing"),
}
WORDS = tuple(f"{COMMON} RUN WORKERS CLUSTER TASKS IMAGES WHAT WHERE PARADIGMS SEEDS ARGS".split())
# Of a training on a CPU. glibc returns large buffers to the system and requests them again; keeping them saves a third
# of a step. A thread of OpenMP that waits for another keeps its core busy. If another program needs the core, steps
# take many times as long, so a thread gives it up sooner.
TRAINING_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "GOMP_SPINCOUNT": "2000",
}
# Word -> the setting that it stands for.
SETTINGS = {"DATA": "data", "MODEL": "model", "ROOT": "data.root", "TAXONOMY": "data.hierarchy", "RUN": "name"}
SETTINGS |= {"CLUSTER": "cluster"}
THREADS = "engine.threads"
Words = dict[str, str]
Step = tuple[str, ...]  # a module and its arguments


def plan(command: str, words: Words, own: Sequence[str]) -> Iterator[Step]:
    """The steps of a command, given its words and its own settings."""
    module, given = COMMANDS[command][0], [*_settings(words), *own]
    if command == "demo":
        if own:
            raise SekdError(f"demo takes no settings, such as {own[0]}: `make teacher` and `make student` take them")
        demo = {"DATA": "demo", "RUN": "demo"}
        yield from plan("teacher", {"DATA": "demo", **words}, ())
        yield from plan("student", {"DATA": "demo"}, ())
        for each in ("general", "evaluate", "report"):
            yield from plan(each, demo, ())
    elif command in ("preview", "lmms-task", "teacher"):
        yield from _world(given)
        yield module, *_settings(words), *(_workers(words, own) if command == "teacher" else []), *own
    elif command == "student":
        yield module, *given
    elif command == "sweep":
        yield module, "--multirun", *given, *(() if own else ("loss=all,hard,soft,hidden", "seed=0,1,2"))
    elif command == "evaluate":
        from sekd.recent import newest_run

        newest = newest_run(Path("runs"))
        yield from _world(given if _data(given) or newest is None else newest.overrides)
        yield module, *given
    elif command == "controls":
        yield from _controls(words, own)
    elif command == "general" and ("TASKS" in words or any(each.startswith("--tasks") for each in own)):
        from sekd.evaluation.general.__main__ import find_lmms_eval

        find_lmms_eval()  # without it nothing need be merged
        yield "stage2_student.merge", *_run(words)
        yield module, *_run(words), *(["--tasks", words["TASKS"]] if "TASKS" in words else []), *own
    elif command == "general":
        yield "sekd.embedded.skills", *_run(words), *own
    elif command == "verify":
        yield module, *([f"artifacts/{words['DATA']}"] if "DATA" in words else []), *own
    elif command in ("push", "pull"):
        what = ([words["WHAT"]] if "WHAT" in words else _run(words)) if command == "push" else []
        yield module, command, *what, *([words["WHERE"]] if "WHERE" in words else []), *own
    elif command == "predict":
        adapter = [f"--adapter={run}/adapter" for run in _run(words)]
        tree = [f"--taxonomy={Path(words['TAXONOMY']).expanduser()}"] if "TAXONOMY" in words else []
        yield module, *adapter, *tree, *own, *shlex.split(words.get("IMAGES", ""))
    else:
        yield module, *_run(words), *own


def _controls(words: Words, own: Sequence[str]) -> Iterator[Step]:
    """A pass of each teacher, a student of each over seeds, their scores.

    Settings of data and model are for all, those that the teacher alone has for the passes, of these the engine's for
    the scores too, and all else for the students. Both the passes and the students take ``artifacts``.
    """
    from sekd.recent import inherited, newest_pass

    # By name, as the commands' own modules are: the shared package imports neither stage.
    teacher, student = import_module("stage1_teacher.config"), import_module("stage2_student.config")
    teachers = {each.name for each in fields(teacher.TeacherConfig)}
    teachers -= {each.name for each in fields(student.StudentConfig)}
    parts = {each: _name(each).partition(".")[0] for each in own}
    shared = [each for each in own if parts[each] in ("data", "model")]
    taught = [each for each in own if parts[each] in teachers | {"artifacts"}]
    trained = [each for each in own if parts[each] not in teachers | {"data", "model"}]
    scored = [each for each in own if parts[each] == "engine"]
    given = [*_settings(words), *shared]
    chosen = [*inherited(given, newest_pass(Path("artifacts"), given)), *given]
    paradigms = words.get("PARADIGMS", "conditioned independent joint shuffled truth").replace(",", " ").split()
    yield from _world(chosen)
    for paradigm in paradigms:
        yield "stage1_teacher", *chosen, *_workers(words, own), *taught, f"paradigm={paradigm}"
    grid = f"paradigm={','.join(paradigms)}", f"seed={words.get('SEEDS', '0,1,2,3,4')}"
    yield "stage2_student", "--multirun", *chosen, *grid, *trained
    yield "sekd.evaluation", *chosen, *scored
    yield ("sekd.evaluation.report",)


def _settings(words: Words) -> list[str]:
    """The words that are settings of a command that Hydra composes."""
    given = {name: words[word] for word, name in SETTINGS.items() if word in words}
    return [f"{name}={Path(value).expanduser() if '.' in name else value}" for name, value in given.items()]


def _run(words: Words) -> list[str]:
    """The run's folder where one is named: ``runs/inat``, or ``runs/inat-<model>`` where the model is not the data's
    default. Every command takes the newest run without it."""
    name = words.get("RUN") or words.get("DATA")
    if "RUN" not in words and Path(other := f"runs/{name}-{words.get('MODEL')}").is_dir():
        return [other]
    return [f"runs/{name}"] if name else []


def _workers(words: Words, own: Sequence[str]) -> list[str]:
    """Engines of a pass: on CPU one for each ``engine.threads`` cores, up to four; on GPU as many as are asked for."""
    if any(_name(each) == "workers" for each in own):
        return []
    threads = [int(value) for each in own if (value := each.partition("=")[2]).isdigit() and _name(each) == THREADS]
    usual = usual_engines(max([1, *threads[-1:]]))  # what is no number of threads is refused by the pass
    return [f"workers={words.get('WORKERS', 1 if engine_extra() == 'gpu' else usual)}"]


def _name(setting: str) -> str:
    return setting.lstrip("+~").partition("=")[0]


def _data(settings: Sequence[str]) -> str | None:
    return next((each.removeprefix("data=") for each in settings if each.startswith("data=")), None)


def _world(settings: Sequence[str]) -> Iterator[Step]:
    """Render the embedded world first, where these settings read it and it is not there."""
    elsewhere = any(each.startswith("data.root=") for each in settings)
    world = embedded_world(_data(settings) or "demo")
    if world and not elsewhere and not Path("data", world, "test.json").is_file():
        yield "sekd.embedded.world", "--world", world


def read_words(command: str, arguments: Sequence[str]) -> tuple[Words, list[str]]:
    """The words of a command line, and all else in its order; those of ARGS are split as a shell does."""
    words: Words = {}
    own: list[str] = []
    for argument in arguments:
        word, given, value = argument.partition("=")
        if not (given and word.isupper() and word.isalpha()):
            own.append(argument)
        elif word not in WORDS:
            raise SekdError(f"{argument}: {word} is none of {', '.join(WORDS)}")
        elif word == "ARGS":
            own += shlex.split(value)
        elif word not in COMMANDS[command][1].split():
            print(f"{command} does not use {word}", file=sys.stderr)
        elif value:
            words[word] = value
    return words, own


def run(steps: Sequence[Step]) -> None:
    """Run each step after the one before; the last one replaces this process."""
    for module, *arguments in steps:
        command = [sys.executable, "-P", "-m", module, *arguments]
        environment = (TRAINING_ENVIRONMENT if module == "stage2_student" else {}) | os.environ
        if (module, *arguments) == steps[-1]:
            sys.stdout.flush()
            os.execve(sys.executable, command, environment)
        if len(steps) > 1:
            print("$", shlex.join(["python", "-m", module, *arguments]), flush=True)
        child = subprocess.Popen(command, env=environment)
        # A terminal sends SIGINT to the child as well.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # noqa: B023 - the one that runs
        if status := child.wait():
            raise SystemExit(status if status > 0 else 128 - status)


def usage() -> str:
    lines = [f"  {name:10s} {line}" for name, (_, _, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sekd COMMAND [WORD=value …] [setting=value …]",
            "",
            *lines,
            "",
            f"Words: {', '.join(WORDS)}.",
            "Data, model and their settings are set once: later commands use those of the newest pass or run.",
            "`sekd COMMAND --help` shows a command's settings; --config-dir DIR and ./conf hold your own.",
        ]
    )


def main() -> None:
    command, *arguments = sys.argv[1:] or ["--help"]
    with exit_on_error():
        if command in ("-h", "--help", "help"):
            print(usage())
        elif command == "--version":
            import sekd

            print(f"sekd {sekd.__version__}")
        elif command not in COMMANDS:
            raise SekdError(f"{command} is no command: choose {', '.join(COMMANDS)}")
        else:
            words, own = read_words(command, arguments)
            help_asked = "-h" in own or "--help" in own
            if help_asked and not COMMANDS[command][0]:
                print(usage())
            else:
                steps = list(dict.fromkeys(plan(command, words, own)))
                run(steps[-1:] if help_asked else steps)  # the last is the command's own module


if __name__ == "__main__":
    main()
