"""A file is what it was before or whole, whatever interrupts its writing."""

from pathlib import Path

import pytest

from sekd.files import write_whole


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
