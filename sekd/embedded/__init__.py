"""The demo that runs on any machine: a rendered data set with taxonomies, and a tiny VLM trained on it."""

from pathlib import Path

BASE = Path(__file__).parent / "base"  # the model, which `make base` makes
