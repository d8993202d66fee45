"""Text files that are whole or absent, whoever else writes them at the same time."""

import uuid
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a file in one step: a reader finds what was there before or all of the text, and so does a next run.

    Several processes may write the same file, as all ranks of a training do: the last one's text stays.
    """
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
