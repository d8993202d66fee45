"""The site builds strictly, and its pages name no command, setting or option that does not exist.

Every block of shell commands is run with commands that only write down their arguments. What `make` would run is
found in the same way. Settings are then composed and options parsed, as the command would do; nothing is executed.
A block that needs more than the repository holds has a title that says so: "Needs a GPU".
"""

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, PluginError
from omegaconf import OmegaConf

from sekd import cli
from sekd.config_folders import CONF
from sekd.evaluation.general import __main__ as general
from sekd.machine import EMBEDDED_MODELS, embedded_world
from sekd.store import verify

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "artifacts/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\b *(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The commands that Hydra composes, and their entries in conf/; every other one of ours parses options.
COMPOSED = {
    "stage1_teacher.__main__": "teacher",
    "stage2_student.__main__": "student",
    "sekd.evaluation.__main__": "evaluate",
    "sekd.preview": "preview",
    "sekd.evaluation.general.export": "lmms_task",
}
OURS = ("sekd", "stage1_teacher", "stage2_student", "benchmarks", "tools")
EVERYWHERE = {"mkdir", "ln", "cp", "touch", "rm", "echo", "set", "test"}
# What a batch scheduler sets.
ENVIRONMENT = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "64", "HOME": "/home/anyone"}
PLACE = "sekd-commands"
Command = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    page: str
    title: str
    text: str


def blocks(pages: Sequence[Path] = PAGES) -> list[Block]:
    found = [(page, *match.groups()) for page in pages for match in BLOCK.finditer(page.read_text())]
    return [Block(f"{page.name}: {text.strip().splitlines()[0]}", info, text) for page, info, text in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with environments that count as installed and whose programs write down their arguments."""
    folder = tmp_path_factory.mktemp(PLACE)
    (folder / "pyproject.toml").touch()
    (folder / "conf").symlink_to(ROOT / "conf")
    for name in (".venv", ".venv-general", ".venv-trl"):
        (folder / name / "bin").mkdir(parents=True)
        (folder / name / ".ready").touch()
    for name in ("python", "sekd", "ruff", "mypy", "lint-imports", "mkdocs"):
        program = folder / ".venv" / "bin" / name
        program.write_text('#!/bin/bash\nprintf "%s\\0" $(($# + 1)) "$0" "$@" >> "$LOG"\n')
        program.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_there_but_lmms_eval(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(general, "find_lmms_eval", lambda: None)


def written_down(script: str, place: Path) -> list[Command]:
    """The commands that a script would run, with their arguments as the shell hands them on."""
    log = place / "log"
    log.write_bytes(b"")
    handler = 'command_not_found_handle() { printf "%s\\0" $# "$@" >> "$LOG"; }\n'
    environment = ENVIRONMENT | {"PATH": "/nowhere", "LOG": str(log)}
    done = subprocess.run(
        ["/bin/bash", "-c", handler + script], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert "syntax error" not in done.stderr, done.stderr
    words = log.read_text().split("\0")[:-1]
    commands = []
    while words:
        count = int(words.pop(0))
        commands.append(tuple(words[:count]))
        del words[:count]
    return commands


@cache
def steps(command: Command, place: Path) -> tuple[Command, ...]:
    """What a command runs, without `make` and `sekd`; one that is neither is itself."""
    if command[0] == "env":
        return steps(command[1:], place)
    if command[0] == "make":
        for name in (word.partition("=")[0] for word in command[1:] if "=" in word):
            assert re.search(rf"\b{name}\b", (ROOT / "Makefile").read_text()), f"the Makefile knows no {name}"
        asked = ["make", "--dry-run", "--no-print-directory", f"--directory={place}", f"--file={ROOT / 'Makefile'}"]
        shown = subprocess.run([*asked, *command[1:]], capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stderr
        return tuple(step for run in written_down(shown.stdout, place) for step in steps(run, place))
    program, *arguments = command
    if command[1:4] == ("-P", "-m", "sekd.cli"):
        program, *arguments = "sekd", *command[4:]
    if program not in ("sekd", ".venv/bin/sekd"):
        return (command,)
    name, *given = arguments
    assert name in cli.COMMANDS, f"sekd has no command {name}"
    for word in (each.partition("=")[0] for each in given):
        assert not word.isupper() or word == "ARGS" or word in cli.COMMANDS[name][1].split(), f"{name} knows no {word}"
    return tuple(("python", "-m", *step) for step in cli.plan(name, *cli.read_words(name, given)))


def needs(script: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Check every command of a script. What they need beyond the repository."""
    commands = written_down(script, place)
    assert commands
    found = {check(step, place, monkeypatch) for command in commands for step in steps(command, place)}
    return {need for need in found if need}


def check(step: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Parse one step as its command does. What it needs beyond the repository, if anything."""
    if not step[0].endswith("python"):
        return None if step[0] in EVERYWHERE or step[0].startswith(".venv/") else step[0]
    if step[1] == "-c":
        ast.parse(step[2])
        return None
    assert step[1] == "-m", step
    module, arguments = step[2], step[3:]
    if module == "pytest":
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/")), step
        return None
    if module.split(".")[0] not in OURS:
        return module
    spec = find_spec(module)
    assert spec, f"there is no module {module}"
    program = f"{module}.__main__" if spec.submodule_search_locations else module
    return composed(program, arguments) if program in COMPOSED else parsed(program, arguments, monkeypatch)


@cache
def composed(module: str, arguments: Command) -> str | None:
    """Compose the settings of a command, each combination of a sweep, into their types."""
    import_module(module)
    name = COMPOSED[module]
    given = [word for word in arguments if not word.startswith("--")]
    overrides = OverridesParser.create().parse_overrides(given)
    values = [
        list(each.sweep_string_iterator() if each.is_sweep_override() else [each.get_value_element_as_str()])
        for each in overrides
    ]
    schema = ConfigStore.instance().load(f"{name}_schema.yaml").node
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # Every value of a sweep once, not every combination.
        for run in range(max([1, *map(len, values)])):
            chosen = [
                f"{each.get_key_element()}={value[min(run, len(value) - 1)]}"
                for each, value in zip(overrides, values, strict=True)
            ]
            plain = OmegaConf.to_container(compose(name, overrides=chosen), resolve=True)
            OmegaConf.to_object(OmegaConf.merge(schema, plain))
    settings = dict(word.lstrip("+~").split("=", 1) for word in given)
    elsewhere = (
        not embedded_world(settings.get("data", "demo")),
        settings.get("model", "tiny") not in EMBEDDED_MODELS.values(),
        not settings.get("data.root", "data/").startswith("data/"),
        "cluster" in settings,
    )
    return "data or a model" if any(elsewhere) else None


class ParsedError(Exception):
    """The options of a command are right; it goes no further."""


def parsed(module: str, arguments: Command, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Let a command parse its options, and stop it there."""
    if not arguments:
        return None
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: object) -> None:
        parse(self, *given)
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises((ParsedError, SystemExit)) as ended:
            import_module(module).main()
    assert ended.type is ParsedError or ended.value.code == 0, f"{module} refuses {' '.join(arguments)}"
    if module == "sekd.evaluation.predict":
        images = [word for word in arguments if not word.startswith("-") and "/" in word]
        return None if any(word.startswith("data/demo") for word in images) else "photos"
    if module == "sekd.evaluation.general.__main__":
        return "lmms-eval"
    if module == "sekd.share":
        return None if any(word.startswith(("./", "/")) or word.endswith(".tar") for word in arguments) else "a hub"
    return None


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.page)
def test_every_command_on_a_page_exists_with_its_settings(
    block: Block, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = needs(block.text, place, monkeypatch)
    if found:
        assert re.fullmatch(r'title="Needs [^"]+"', block.title), f'say what it needs, as title="Needs …": {found}'


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("make teecher", "No rule to make target 'teecher'"),
        ("make student ARG=loss=hard", "knows no ARG"),
        ('make student ARGS="loss.sotf.weight=1"', "Could not override 'loss.sotf.weight'"),
        ('make sweep ARGS="loss=hard,sfot"', "Could not find 'loss/sfot'"),
        ('make teacher ARGS="topk=many"', "Error merging override topk=many"),
        (
            'for seed in 0 1; do\n  make student ARGS="seed=$seed x"\ndone',
            "Error parsing override 'x'",
        ),
        ("make evaluate && make (report)", "syntax error"),
        ("python -m sekd.nowhere", "no module sekd.nowhere"),
        ("python -m sekd.evaluation.rescore runs/demo --parsre benchmark", "refuses runs/demo --parsre"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(
    wrong: str, said: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match=said):
        needs(wrong, place, monkeypatch)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {file.relative_to(tmp_path).as_posix(): file.read_text() for file in tmp_path.rglob("*.html")}
    loaded = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?https?:|<link[^>]+rel=\"?(?:style|pre)[^>]+https?:")
    assert not [name for name, text in pages.items() if loaded.search(text)]
    assert "has no chat template: a chat model is needed" in pages["troubleshooting.html"]
    assert "test_site.py" in pages["checks.html"]
    assert "Cross-entropy on the teacher" in pages["api/stage2_student.losses.html"]
    assert "fingerprint" in pages["store.html"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gone](gone.md)", "'gone.md', but the target is not found"),
        ("[here](#nowhere)", "there is no such anchor"),
        ('<!-- include README.md "Nothing" -->', "has no heading 'Nothing'"),
    ],
)
def test_a_dead_link_ends_the_build(text: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Page\n\n{text}\n")
    config = load_config(
        str(ROOT / "mkdocs.yml"),
        docs_dir=str(tmp_path / "docs"),
        site_dir=str(tmp_path / "site"),
        plugins=[],
        nav=[],
        strict=True,
    )
    with pytest.raises((Abort, PluginError)) as ended:
        build(config)
    assert said in caplog.text + str(ended.value)


def test_the_checks_of_a_stored_pass_run_as_they_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "tests/store/before", tmp_path / "artifacts/demo")
    assert "python -m sekd.store.verify artifacts/demo" in (ROOT / "artifacts/README.md").read_text()
    assert verify.main([str(tmp_path / "artifacts/demo")]) == 0
    assert "407a947ce02bb756" in capsys.readouterr().out
