"""Which of a dataset's examples are used, and in what order: by fixed hashes, so that nothing depends on file order."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from heapq import nsmallest

from sekd.datasets.base import Example
from sekd.datasets.config import DataConfig, SplitPart
from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy, fold, fold_path


def in_share(examples: Iterable[Example], part: SplitPart) -> list[Example]:
    """The examples of a split's share. Membership depends on the id alone, never on a seed."""
    if (part.low, part.high) == (0, 100):
        return list(examples)
    return [example for example in examples if part.low <= 100 * _unit(f"split/{example.id}") < part.high]


def of_classes(examples: Iterable[Example], classes: Sequence[str], taxonomy: Taxonomy) -> list[Example]:
    """The examples whose path holds one of the names, at any level.

    Raises:
        SekdError: a name that the taxonomy does not hold.
    """
    held = {name for leaf in taxonomy.leaves for name in fold_path(leaf)}
    wanted = {fold(name) for name in classes}
    if not wanted <= held:
        raise SekdError(f"data.classes: the taxonomy holds no {', '.join(sorted(wanted - held))}")
    return [example for example in examples if example.path and wanted.intersection(fold_path(example.path))]


def in_asking_order(examples: Sequence[Example], config: DataConfig) -> list[Example]:
    """Shuffled by seed and cut to the limit. A smaller limit's examples are the first ones of a larger limit's."""

    def place(example: Example) -> tuple[float, str]:
        return _unit(f"order/{config.seed}/{example.id}"), example.id

    return nsmallest(len(examples) if config.limit is None else config.limit, examples, key=place)


def _unit(text: str) -> float:
    """A fixed hash of the text, even over [0, 1)."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest()) / 2**48
