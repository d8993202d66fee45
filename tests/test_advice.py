"""Every setting that a message or the documentation names exists."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sekd.config_folders import CONF

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "teacher": "stage1_teacher.__main__",
    "student": "stage2_student.__main__",
    "evaluate": "sekd.evaluation.__main__",
    "preview": "sekd.preview",
}
GROUPS = "data|model|engine|teacher|loss|rehearsal|lora|optim|stream|trainer|validation"
DOTTED = re.compile(rf"(?<![\w./-])(?:{GROUPS})(?:\.[a-z]\w*)+(?=[=\s,:;)`\"']|\.(?:\s|$)|$)")
GIVEN = re.compile(r"(?<![\w./<-])([a-z]\w*)=(?!=)")
# Names before "=" that are not settings: attributes of HTML and SVG, and arguments of a library's functions.
OTHERS = {
    "setting",
    "key",
    "class",
    "href",
    "id",
    "lang",
    "charset",
    "name",
    "content",
    "enable_lora",
    "max_lora_rank",
    "file",
    "what",
}


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """Every setting of every command, dotted, with the groups that are chosen by name."""
    found = {"recipe"}
    for name, module in COMMANDS.items():
        import_module(module)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            found |= set(names(OmegaConf.to_container(compose(name), resolve=False)))
    return found


def names(node: Any, above: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield above + key
        if isinstance(value, dict):
            yield from names(value, f"{above}{key}.")


def messages() -> Iterator[tuple[str, str]]:
    """(where, text) of every sentence in the code, "…" for what is filled in; no docstrings."""
    for folder in ("sekd", "stage1_teacher", "stage2_student"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "report" in file.parts:
                continue
            inside: set[int] = set()
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    inside.add(id(node.value))
                if id(node) in inside:
                    continue
                if isinstance(node, ast.JoinedStr):
                    inside |= {id(part) for part in node.values}
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                else:
                    continue
                if " " in text:
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", text


def exists(name: str, settings: set[str]) -> bool:
    """Settings below a mapping that the user fills, such as a level's weight, exist where the mapping does."""
    return name in settings or name.rpartition(".")[0] in {"loss.levels", "data.within", "data.splits"}


def test_every_setting_that_a_message_names_exists(settings: set[str]) -> None:
    unknown = [
        (where, name)
        for where, text in messages()
        for name in (*DOTTED.findall(text), *(GIVEN.findall(text)))
        if not exists(name, settings) and name not in OTHERS
    ]
    assert not unknown


def test_every_setting_that_the_documentation_names_exists(settings: set[str]) -> None:
    files = [ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / "docs").rglob("*.md"), *CONF.rglob("*.yaml")]
    unknown = [
        (file.name, name) for file in files for name in DOTTED.findall(file.read_text()) if not exists(name, settings)
    ]
    assert not unknown


@pytest.mark.parametrize("wrong", ["set trainer.logger=csv", "`make teacher ARGS=k=8`", "see loss.hidden.layer."])
def test_a_setting_that_does_not_exist_is_noticed(wrong: str, settings: set[str]) -> None:
    assert [name for name in (*DOTTED.findall(wrong), *GIVEN.findall(wrong)) if not exists(name, settings)]
