"""An error may be raised in one process and reported by another: every class can be pickled."""

import ast
import errno
import os
import pickle
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sekd.errors import SekdError, Stopped, exit_on_error
from sekd.inference.requests import UnreadableImageError, UnusableImageError
from sekd.store import DamagedStoreError
from stage1_teacher.teacher_modes import NoPrefixError, OutsideTreeError

REPOSITORY = Path(__file__).parents[1]
ARGUMENTS: dict[type[BaseException], tuple[Any, ...]] = {
    DamagedStoreError: (Path("shard-0/targets.parquet"), "the checksum does not match"),
    UnreadableImageError: (Path("a.jpg"), OSError("truncated")),
    UnusableImageError: ("a.jpg", "9,000 tokens"),
    NoPrefixError: ("a", "unreadable image: OSError"),
    OutsideTreeError: ("a", "no node of the first level is more probable than 0.20 < 0.5"),
    Stopped: (signal.SIGTERM,),
}


def classes() -> list[type[BaseException]]:
    """Every exception that this project defines; only the modules that define one are imported."""
    found: list[type[BaseException]] = []
    for package in ("sekd", "stage1_teacher", "stage2_student"):
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            names = [node.name for node in ast.parse(file.read_text()).body if _may_be_an_error(node)]
            if names:
                module = import_module(".".join(file.relative_to(REPOSITORY).with_suffix("").parts))
                found += [getattr(module, name) for name in names]
    return found


def _may_be_an_error(node: ast.stmt) -> bool:
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    return any(base.endswith(("Error", "Exception", "Interrupt", "Exit", "Stopped")) for base in bases)


def test_the_search_finds_them_all() -> None:
    assert {SekdError, DamagedStoreError, UnreadableImageError} <= set(classes())
    assert set(SekdError.__subclasses__()) <= set(classes())


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_in_another_process(kind: type[BaseException]) -> None:
    error = kind(*ARGUMENTS.get(kind, ("what is wrong, and what to do",)))
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is kind
    assert str(there) == str(error)
    assert {name: str(value) for name, value in vars(there).items()} == {
        name: str(value) for name, value in vars(error).items()
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("file", ["runs/a/config.yaml", None])
def test_a_disk_that_takes_no_more_is_one_line_with_the_file(
    number: int, file: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise OSError(number, os.strerror(number), file)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {file or 'a file'} cannot be written: {os.strerror(number)}; make room or write elsewhere\n"
    )


def test_another_fault_of_the_system_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError), exit_on_error():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "data/train.json")
