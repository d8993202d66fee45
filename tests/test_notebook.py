"""The notebook runs from its first cell to its last, with fewer images."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples/demo.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES", "96")
    monkeypatch.setenv("TESTED", "6")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # of `sekd`
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= 12
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "error:" not in printed
    assert "Traceback" not in printed
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 2
    assert len(list(tmp_path.glob("runs/*/scores.json"))) == 1
    assert len(list(tmp_path.glob("runs/**/adapter"))) == 2
