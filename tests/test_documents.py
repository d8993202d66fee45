"""The documents name files that exist, and tell the two ways through the code in at most twelve files each."""

import re
from pathlib import Path

import pytest
from standins.table import PAGE, page, read_page

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "artifacts/README.md", *(ROOT / "docs").glob("*.md")]
FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|yaml|md))`")


def named(text: str) -> list[Path]:
    """The files named; one without a folder is in the folder of the file before it."""
    found: list[Path] = []
    for name in FILE.findall(text):
        found.append(Path(name) if "/" in name or not found else found[-1].parent / name)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_source_file_that_a_document_names_exists(document: Path) -> None:
    packages = ("sekd", "stage1_teacher", "stage2_student", "benchmarks", "tools", "tests", "conf")
    files = [file for file in named(document.read_text()) if file.parts[0] in packages]
    assert not [file for file in files if not (ROOT / file).is_file()]


@pytest.mark.parametrize("way", ["image", "row"])
def test_each_way_through_the_code_is_told_in_twelve_steps_and_files(way: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    section = re.search(rf"## The way of an? {way}:.*?(?=\n## )", text, re.DOTALL)
    assert section
    assert 5 < len(re.findall(r"^\d+\. ", section.group(), re.MULTILINE)) <= 12
    files = set(named(section.group()))
    assert 5 < len(files) <= 12
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_a_family_that_is_not_run_again_keeps_its_row_in_the_table_of_families() -> None:
    written = PAGE.read_text()
    held = read_page(written)
    able = {family: {kind: row[kind] for kind in list(row)[-4:]} for family, row in held.items()}
    assert page(held, able) == written
    assert {row["teacher"] for row in held.values()} == {"ok"}
