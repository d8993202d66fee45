"""Self-elicited knowledge distillation: what both stages share, the task and the artifact contract."""

from typing import Any


def __getattr__(name: str) -> Any:
    """``__version__``, that of the installed package: read when it is asked for, as reading it takes a while."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sekd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
