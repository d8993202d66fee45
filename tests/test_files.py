"""A file written with ``atomic`` is the old or the new one, never a part of either."""

import os
from pathlib import Path

import pytest

from sekd.files import atomic, write_whole


def test_readers_see_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text("old")
    with atomic(file) as partial:
        partial.write_text("ne")
        assert file.read_text() == "old"
        partial.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_is_cut_off_leaves_what_was_there_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    write_whole(file, "größe: 1\n")
    write = Path.write_text

    def cut_off(self: Path, text: str, **how: str) -> int:
        write(self, text[:4], **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, "größe: 2\n")
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]
    assert file.read_text(encoding="utf-8") == "größe: 1\n"


def test_an_error_while_syncing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scores.json"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"), atomic(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    with atomic(file) as first, atomic(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"


def test_the_bytes_are_on_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, order = tmp_path / "metrics.json", []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("sync"), real_fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (order.append("replace"), real_replace(old, new)))
    with atomic(file) as partial:
        partial.write_text("new")
    assert order == ["sync", "replace", "sync"]
