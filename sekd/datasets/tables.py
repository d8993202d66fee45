"""Read the text files of published datasets; each error names the file and what was expected."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sekd.errors import SekdError


def read_json(path: Path, *, holds: Sequence[str]) -> dict[str, Any]:
    """A JSON object with at least the given keys."""
    try:
        table = json.loads(_read(path))
    except ValueError as error:
        raise SekdError(f"{path} is not valid JSON ({error}): the file may be cut off; copy it again") from error
    if missing := [key for key in holds if not isinstance(table, dict) or key not in table]:
        raise SekdError(f"{path}: expected an object with {', '.join(holds)}; {', '.join(missing)} not found")
    return table


def read_lines(path: Path) -> list[str]:
    """A text file's lines without the empty ones."""
    return [line.strip() for line in _read(path).splitlines() if line.strip()]


def read_pairs(path: Path) -> dict[str, str]:
    """Lines of "key value", the value up to the line's end, as in CUB's and ImageNet's lists."""
    pairs = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, _, value = line.partition(" ")
        if not value.strip():
            raise SekdError(f"{path}, line {number}: expected an id and a value with a space between, got {line!r}")
        pairs[key] = value.strip()
    return pairs


def locate(root: str, name: str) -> Path:
    """A file in the root or the working directory; its path in the root if neither exists."""
    inside, here = Path(root) / name, Path(name)
    return here if here.is_file() and not inside.is_file() else inside


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SekdError(
            f"{path} cannot be read ({error.strerror}): expected it as the dataset's authors publish it; "
            "check data.root and data.splits"
        ) from error
    except UnicodeDecodeError as error:
        raise SekdError(f"{path} is not text ({error}): expected it as the dataset's authors publish it") from error
