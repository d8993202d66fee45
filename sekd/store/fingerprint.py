"""A short name for everything that the teacher's answers depend on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sekd.errors import SekdError

DIGITS = 16


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of ``identity`` as canonical JSON.

    The order of keys is irrelevant, every value matters, and so does its type: ``1``, ``1.0``, ``True`` and
    ``"1"`` differ. Tuples count as lists.

    Raises:
        SekdError: the identity holds what JSON cannot name without doubt (a path, a NaN, a key that is no text).
    """
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:DIGITS]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, in ASCII."""
    refuse_ambiguous(value, "identity")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def refuse_ambiguous(value: Any, where: str) -> None:
    """Raise unless ``value`` is a tree of mappings with text keys, lists, text, finite numbers, booleans, None."""
    match value:
        case dict():
            for key, item in value.items():
                if type(key) is not str:
                    raise SekdError(f"{where}: the key {key!r} is {type(key).__name__}, expected text")
                refuse_ambiguous(item, f"{where}.{key}")
        case list() | tuple():
            for position, item in enumerate(value):
                refuse_ambiguous(item, f"{where}[{position}]")
        case float() if value != value or abs(value) == float("inf"):
            raise SekdError(f"{where} is {value}, expected a finite number")
        case _ if type(value) not in (str, int, float, bool, type(None)):
            raise SekdError(f"{where} is {type(value).__name__}, expected text, number, boolean, list or mapping")
