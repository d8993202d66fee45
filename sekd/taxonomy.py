"""A label tree, told by full paths: names from coarse to fine, as published.

A node *is* its path, so a name may stand at two levels, twice in one path, or under two parents. Names compare as the
benchmark compares them, without case. Knows nothing about images or questions.
"""

import csv
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path

from sekd.errors import SekdError

Names = tuple[str, ...]


def fold(name: str) -> str:
    """The form in which names are compared."""
    return name.strip().lower()


def fold_path(path: Iterable[str]) -> Names:
    return tuple(fold(name) for name in path)


class Taxonomy:
    """Every node of every path, by depth, in an order that does not depend on the order of the paths given.

    Args:
        paths: one path a leaf, coarse to fine; a leaf's path may be the beginning of another's. The spelling met
            first is the one shown.
        skip: so many first levels are never asked about, and nodes that differ in them are never each other's
            distractors.
        level_names: "order", "family", …; named by number where absent.
        keys: what datasets call a leaf -> its path; by default the leaf's own name.

    Raises:
        SekdError: no path, a path without names, or one that ends within the skipped levels.
    """

    def __init__(
        self,
        paths: Iterable[Sequence[str]],
        *,
        skip: int = 0,
        level_names: Sequence[str] | None = None,
        keys: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        spelled: dict[Names, Names] = {}
        leaves: dict[Names, Names] = {}
        for path in paths:
            names = tuple(name.strip() for name in path)
            _check_path(names, skip)
            folded = fold_path(names)
            for depth, name in enumerate(names):
                above = spelled[folded[:depth]] if depth else ()
                spelled.setdefault(folded[: depth + 1], (*above, name))
            leaves.setdefault(folded, spelled[folded])
        if not leaves:
            raise SekdError("the taxonomy holds no path: expected at least one leaf with its names, coarse to fine")
        self.skip = skip
        self.level_names = tuple(level_names or ())
        self.leaves: tuple[Names, ...] = tuple(leaves[folded] for folded in sorted(leaves))
        self.depth = max(map(len, leaves))
        self._spelled = spelled
        self._folded = [sorted(node for node in spelled if len(node) == depth + 1) for depth in range(self.depth)]
        self._nodes = [tuple(spelled[node] for node in level) for level in self._folded]
        named = keys if keys is not None else {path[-1]: path for path in self.leaves}
        self._keys = {fold(key): self.path(path) for key, path in named.items()}

    def level_name(self, depth: int) -> str:
        """What the level is called, counted from 0; "level 3" for depth 2 where it has no name."""
        return self.level_names[depth] if depth < len(self.level_names) else f"level {depth + 1}"

    def nodes(self, depth: int, root: Sequence[str] = ()) -> tuple[Names, ...]:
        """Paths of the nodes at a depth below ``root``, in stable order."""
        start, stop = self.span(depth, root)
        return self._nodes[depth][start:stop]

    def names(self, depth: int) -> tuple[str, ...]:
        """The name of each node at a depth, in the order that ``span`` indexes."""
        return self._names[depth]

    def span(self, depth: int, root: Sequence[str] = ()) -> tuple[int, int]:
        """The nodes at a depth that lie below ``root`` are one run of ``nodes(depth)``: its [start, stop)."""
        return self._span(depth, fold_path(root))

    def distinct_names(self, depth: int, root: Sequence[str] = ()) -> int:
        """How many names that differ stand at a depth below ``root``."""
        return self._distinct(depth, fold_path(root))

    def path(self, path: Sequence[str]) -> Names:
        """The node as the tree spells it.

        Raises:
            SekdError: there is no such node.
        """
        try:
            return self._spelled[fold_path(path)]
        except KeyError:
            raise SekdError(f"the taxonomy holds no node {' > '.join(path)}") from None

    @property
    def keys(self) -> Mapping[str, Names]:
        """Folded key -> path of the leaf that datasets call so."""
        return self._keys

    @cached_property
    def folded_names(self) -> tuple[Names, ...]:
        """``names`` in the form in which they are compared, a tuple a depth."""
        return tuple(tuple(node[-1] for node in level) for level in self._folded)

    @cached_property
    def _names(self) -> tuple[Names, ...]:
        return tuple(tuple(node[-1] for node in level) for level in self._nodes)

    @cache  # noqa: B019 - a taxonomy lives as long as the process
    def _span(self, depth: int, root: Names) -> tuple[int, int]:
        # Sorted by folded path, what shares a beginning is one run.
        def beginning(node: Names) -> Names:
            return node[: len(root)]

        level = self._folded[depth] if depth < self.depth else []
        return bisect_left(level, root, key=beginning), bisect_right(level, root, key=beginning)

    @cache  # noqa: B019
    def _distinct(self, depth: int, root: Names) -> int:
        start, stop = self._span(depth, root)
        return len(set(self.folded_names[depth][start:stop]))

    @classmethod
    def from_json(cls, path: Path | str, *, skip: int = 0, level_names: Sequence[str] | None = None) -> "Taxonomy":
        """Read ``{leaf: [coarse, …, fine]}``.

        Raises:
            SekdError: the file is missing or no such table, an entry has no path, or the tree has a cycle.
        """
        paths = _json_paths(Path(path))
        _check_cycles(paths.values(), Path(path))
        return _from_file(path, paths, skip, level_names)

    @classmethod
    def from_csv(cls, path: Path | str, *, skip: int = 0, level_names: Sequence[str] | None = None) -> "Taxonomy":
        """Read one leaf a row: first its key, then its names coarse to fine under a header that names the levels.

        Cells at a row's end may be empty, where a leaf is less deep.

        Raises:
            SekdError: the file is missing or no such table, a row has no path, or the tree has a cycle.
        """
        header, paths = _csv_paths(Path(path))
        _check_cycles(paths.values(), Path(path))
        return _from_file(path, paths, skip, level_names or header)


def load_taxonomy(path: Path | str, *, skip: int = 0, level_names: Sequence[str] | None = None) -> Taxonomy:
    """A hierarchy file, read by what its name ends with: ``.json`` or ``.csv``."""
    read = Taxonomy.from_csv if Path(path).suffix.lower() == ".csv" else Taxonomy.from_json
    return read(path, skip=skip, level_names=level_names)


def _from_file(
    path: Path | str, paths: Mapping[str, Sequence[str]], skip: int, level_names: Sequence[str] | None
) -> Taxonomy:
    try:
        return Taxonomy(paths.values(), skip=skip, level_names=level_names, keys=paths)
    except SekdError as error:
        raise SekdError(f"{path}: {error}") from None


def _check_path(names: Names, skip: int) -> None:
    if not names or not all(names):
        raise SekdError(f"a path is empty or holds an empty name: {list(names)}")
    if len(names) <= skip:
        raise SekdError(f"path {' > '.join(names)} ends within the {skip} levels that are not asked about")


def _json_paths(path: Path) -> dict[str, list[str]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _absent(path, error) from error
    except ValueError as error:
        raise SekdError(f"{path} is not valid JSON ({error}): the file may be cut off; copy it again") from error
    if not isinstance(table, dict):
        raise SekdError(f"{path}: expected an object that maps each leaf to its path, coarse to fine")
    for leaf, names in table.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise SekdError(
                f"{path}: leaf {leaf!r} has no path; expected a list of names, coarse to fine, got {names!r}"
            )
    return table


def _csv_paths(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except OSError as error:
        raise _absent(path, error) from error
    except ValueError as error:
        raise SekdError(
            f"{path} is not a table ({error}): expected a header (key, level names) and one leaf a row"
        ) from error
    paths = {}
    for number, (leaf, *cells) in enumerate(rows, start=2):
        depth = max((index + 1 for index, cell in enumerate(cells) if cell), default=0)
        if not depth or not all(cells[:depth]) or depth >= len(header):
            raise SekdError(
                f"{path}, row {number}: leaf {leaf!r} has no whole path; expected its key, then a name for each level "
                f"of {', '.join(header[1:])} from the first on"
            )
        paths[leaf] = cells[:depth]
    return header[1:], paths


def _absent(path: Path, error: OSError) -> SekdError:
    return SekdError(f"hierarchy {path} cannot be read ({error.strerror}): set data.hierarchy to a JSON or CSV file")


def _check_cycles(paths: Iterable[Sequence[str]], file: Path) -> None:
    """No name may stand both above and below another; one that repeats at once (a genus as its own species) may."""
    above: dict[tuple[str, str], Sequence[str]] = {}
    for path in paths:
        for upper, lower in combinations(fold_path(path), 2):
            if upper == lower:
                continue
            if (lower, upper) in above:
                raise SekdError(
                    f"{file}: the tree has a cycle: {upper!r} stands above {lower!r} in {' > '.join(path)} "
                    f"and below it in {' > '.join(above[lower, upper])}"
                )
            above[upper, lower] = path
