"""The fingerprint changes with every value and with nothing else."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from store_passes import IDENTITY, PLAN, layout

from sekd.errors import SekdError
from sekd.store import Plan, fingerprint
from sekd.store.manifest import Manifest

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
IDENTITIES = st.dictionaries(st.text(), VALUES, max_size=6)


def reordered(value):
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def leaves(value, place=()):
    """Every place in a tree that holds a value: the path to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from leaves(item, (*place, key))


@given(IDENTITIES)
def test_the_order_of_keys_is_irrelevant(identity):
    assert fingerprint(identity) == fingerprint(reordered(identity))


@given(IDENTITIES, LEAVES, st.data())
def test_any_changed_value_changes_it(identity, new, data):
    places = list(leaves(identity))
    assume(places)
    *way, last = data.draw(st.sampled_from(places))
    changed = copy.deepcopy(identity)
    parent = changed
    for key in way:
        parent = parent[key]
    assume(repr(parent[last]) != repr(new))
    parent[last] = new
    assert fingerprint(changed) != fingerprint(identity)


@given(IDENTITIES, st.text(), VALUES)
def test_an_added_key_changes_it(identity, key, value):
    assume(key not in identity)
    assert fingerprint({**identity, key: value}) != fingerprint(identity)


def test_kinds_of_value_are_told_apart():
    kinds = [1, 1.0, True, "1", [1], None, "", [], {}, 0, False, -0.0, 0.0]
    assert len({fingerprint({"x": kind}) for kind in kinds}) == len(kinds)


def test_tuples_count_as_lists():
    assert fingerprint({"layers": (1, 2)}) == fingerprint({"layers": [1, 2]})


@pytest.mark.parametrize("value", [math.nan, -math.inf, Path("a"), {1}, {1: "a"}, b"bytes", object()])
def test_what_json_cannot_name_is_refused_by_its_place(value):
    with pytest.raises(SekdError, match=r"identity\.model\.settings\[1\]"):
        fingerprint({"model": {"settings": [0, value]}})


def test_it_is_the_same_in_every_process():
    code = f"from sekd.store import fingerprint; print(fingerprint({json.loads(json.dumps(IDENTITY))}))"
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == fingerprint(IDENTITY)


def test_a_store_is_told_by_all_but_how_it_is_cut_into_shards():
    def manifest(*, identity=IDENTITY, plan=PLAN, **changes):
        return Manifest(identity=identity, plan=plan, layout=layout(**changes)).fingerprint

    assert manifest(plan=Plan(n_examples=10, shard_size=1)) == manifest()
    others = [
        manifest(plan=Plan(n_examples=11, shard_size=4)),
        manifest(identity={**IDENTITY, "seed": 2}),
        manifest(k=4),
        manifest(layers=(2,)),
        manifest(layers=(4, 2)),
        manifest(hidden_size=17),
        manifest(hidden_dtype="float16"),
        manifest(vocab_size=501),
        manifest(letter_ids=(1, 2, 3, 4)),
    ]
    assert len({manifest(), *others}) == 1 + len(others)
