"""The published label trees, for tests that read them; skipped if the files are missing."""

import os
from pathlib import Path

import pytest

TREES = Path(os.environ.get("SEKD_TAXONOMIES", Path(__file__).parents[1] / "../shared/taxonomies"))
NAMES = ("CUB200", "Food", "Inat_animal", "Inat_plantae")
needs_trees = pytest.mark.skipif(not TREES.is_dir(), reason="the published trees are not at hand")
