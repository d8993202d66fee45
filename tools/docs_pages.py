"""What mkdocs adds to the pages of docs/: files from elsewhere in the repository, and what is read from the source.

A line ``<!-- include README.md "Results" -->`` brings in the text below that heading of a file, ``<!-- errors -->``
every error message by module, ``<!-- tests -->`` what each test file holds. mkdocs calls the functions named ``on_…``.
"""

import ast
import builtins
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("sekd", "stage1_teacher", "stage2_student")
# Files elsewhere that are pages here.
ELSEWHERE = {
    "artifacts/README.md": "store.md",
    "sekd/embedded/base/README.md": "base_model.md",
    "sekd/embedded/forest_base/README.md": "base_model_of_many_trees.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
INCLUDE = re.compile(r'^<!-- include (\S+) "(.+)" -->$', re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere, and a page for each module that the navigation names."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=FRONT_MATTER.sub("", (ROOT / source).read_text())))
    for page in re.findall(r"'(api/[\w.]+\.md)'", str(config.nav)):
        module = PurePosixPath(page).name.removesuffix(".md")
        files.append(File.generated(config, page, content=f"# `{module}`\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text with what it includes; links to files elsewhere lead to their pages."""
    own = page.file.src_uri
    source = next((file for file, name in ELSEWHERE.items() if name == own), f"docs/{own}")
    text = INCLUDE.sub(lambda found: relinked(below(found[2], ROOT / found[1]), found[1]), relinked(markdown, source))
    for mark, listed in (("errors", errors), ("tests", tests)):
        if f"<!-- {mark} -->" in text:
            text = text.replace(f"<!-- {mark} -->", "\n".join(listed()))
    return text


def on_post_page(output: str, **_: Any) -> str:
    """The page with a name for the theme's search dialog, which screen readers announce."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def on_post_template(output: str, **_: Any) -> str:
    return on_post_page(output)  # the page of an absent address


def relinked(markdown: str, source: str) -> str:
    """A file's text with its links to files of the repository as links of a page of docs/."""

    def target(found: re.Match[str]) -> str:
        path = os.path.normpath(Path(source).parent / found[1])
        return ELSEWHERE.get(path) or os.path.relpath(path, "docs")

    return LINK.sub(target, markdown)


def below(heading: str, file: Path) -> str:
    """The text below a heading, down to the next one of the first or second level."""
    lines = file.read_text().splitlines()
    start = next((i for i, line in enumerate(lines) if line.lstrip("#") == f" {heading}"), None)
    if start is None:
        raise PluginError(f"{file} has no heading {heading!r} whose text a page includes")
    kept: list[str] = []
    for line in lines[start + 1 :]:
        if re.match("##? ", line) and sum(each.startswith("```") for each in kept) % 2 == 0:  # no comment in a block
            break
        kept.append(line)
    return "\n".join(kept).strip()


def errors() -> Iterator[str]:
    """Every message of this project's errors in the source, by module; what a message fills in is in italics."""
    for file in (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))):
        tree = ast.parse(file.read_text())
        raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
        own = [call for call in raised if call.args and _is_own_error(ast.unparse(call.func))]
        messages = [" ".join(_words(call.args[-1]).split()) for call in own]
        if told := [message for message in dict.fromkeys(messages) if " " in message]:
            yield f"\n### {_purpose(tree)}\n\n`{file.relative_to(ROOT)}`\n"
            yield from (f"- {message}" for message in told)


def tests() -> Iterator[str]:
    """Every test file: the number of its tests, and its docstring's first sentence or its first test's name."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text())
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        names = [name.removeprefix("test_").replace("_", " ") for name in names if name.startswith("test_")]
        yield f"- `{file.relative_to(ROOT / 'tests')}` ({len(names)}): {_purpose(tree) or names[0]}"


def _is_own_error(name: str) -> bool:
    return name.endswith("Error") and not hasattr(builtins, name)


def _words(node: ast.expr) -> str:
    """The text of a string as the source builds it, as Markdown: variables by name in italics, "…" for all else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"([*_<>\[\]])", r"\\\1", node.value)  # a message has no markup but code in backticks
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _words(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _words(node.left) + _words(node.right)
    if isinstance(node, ast.Name | ast.Attribute):
        return f"*{ast.unparse(node).rpartition('.')[2].strip('_').replace('_', ' ').lower()}*"
    return "…"


def _purpose(tree: ast.Module) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(tree) or "").split())
    return re.split(r"(?<=\.)\s(?=[A-Z`])", text)[0].removesuffix(".")
