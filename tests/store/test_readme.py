"""The worked example in the artifacts' README runs as it stands, and says what the store says."""

import re
from pathlib import Path

import numpy as np
import pytest
from store_passes import fill, layout, new_store

from sekd.store import as_float32
from sekd.store.schema import schema

README = Path(__file__).parents[2] / "artifacts" / "README.md"


def worked_example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return code


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float8_e4m3", "int8"])
def test_the_worked_example_opens_a_store_without_this_project(tmp_path, monkeypatch, dtype):
    store = fill(new_store(tmp_path / "artifacts" / "demo", hidden_dtype=dtype))
    monkeypatch.chdir(tmp_path)
    seen: dict = {}
    code = worked_example()
    assert "sekd" not in code
    exec(code, seen)
    assert seen["store"] == Path("artifacts/demo") / store.fingerprint
    assert seen["rows"]["sample"].tolist() == store.read_targets(0)["sample"].to_pylist()
    assert seen["rows"]["confidence"].between(0, 1).all()
    np.testing.assert_array_equal(seen["values"], as_float32(store.hidden(0)[:], dtype))


def test_every_column_is_explained():
    named = set(re.findall(r"`(\w+)`", README.read_text()))
    assert set(schema(layout()).names) <= named
