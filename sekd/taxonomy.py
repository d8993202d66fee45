"""A label tree, described by full paths: names from coarse to fine, as published.

A node *is* its path, so a name may occur at two levels, twice in one path, or under two parents. Names compare as the
benchmark compares them, without case. Knows nothing about images or questions.
"""

import csv
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.tree_files import NEWICK, darwin_core_paths, is_darwin_core, newick_paths

Names = tuple[str, ...]
TABLES = (".csv", ".tsv", ".txt")
TREES = "a JSON file of leaf -> path, coarse to fine, a CSV, a Newick tree or a Darwin Core taxon table"


def fold(name: str) -> str:
    """The form in which names are compared."""
    return name.strip().lower()


def fold_path(path: Iterable[str]) -> Names:
    return tuple(fold(name) for name in path)


class Taxonomy:
    """Every node of every path, by depth, in an order that does not depend on the order of the paths given.

    Args:
        paths: one path a leaf, coarse to fine; a leaf's path may be the beginning of another's. The first spelling of
            a name is the one shown.
        skip: the first ``skip`` levels are never asked about, and nodes that differ in them are never each other's
            distractors.
        level_names: "order", "family", …; named by number where absent.
        keys: what datasets call a leaf -> its path; by default the leaf's own name.

    Attributes:
        leaves: the leaves' paths, sorted.
        names: by depth, the name of each node, in the order that ``span`` indexes; ``folded_names`` as compared.
        keys: folded key -> path of the leaf.

    Raises:
        SekdError: no path, a path without names, or one that ends within the skipped levels; or a key of two leaves.
    """

    def __init__(
        self,
        paths: Iterable[Sequence[str]],
        *,
        skip: int = 0,
        level_names: Sequence[str] | None = None,
        keys: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        spelled: dict[Names, Names] = {(): ()}
        leaves = set()
        for path in paths:
            names = tuple(name.strip() for name in path)
            if not names or not all(names):
                raise SekdError(f"a path is empty or holds an empty name: {list(names)}")
            if len(names) <= skip:
                raise SekdError(f"path {' > '.join(names)} ends within the {skip} levels that are not asked about")
            folded = fold_path(names)
            for depth, name in enumerate(names):
                spelled.setdefault(folded[: depth + 1], (*spelled[folded[:depth]], name))
            leaves.add(folded)
        if not leaves:
            raise SekdError("the taxonomy holds no path: expected at least one leaf with its names, coarse to fine")
        del spelled[()]
        self.skip = skip
        self.level_names = tuple(level_names or ())
        self.leaves: tuple[Names, ...] = tuple(spelled[folded] for folded in sorted(leaves))
        self.depth = max(map(len, leaves))
        self._spelled = spelled
        self._folded = [sorted(node for node in spelled if len(node) == depth + 1) for depth in range(self.depth)]
        self._nodes = [tuple(spelled[node] for node in level) for level in self._folded]
        self.names = [tuple(node[-1] for node in level) for level in self._nodes]
        self.folded_names = [tuple(node[-1] for node in level) for level in self._folded]
        named = keys if keys is not None else {path[-1]: path for path in self.leaves}
        self.keys: Mapping[str, Names] = {fold(key): self.path(path) for key, path in named.items()}
        for key, path in (keys or {}).items():
            if fold_path(path) != fold_path(self.keys[fold(key)]):
                raise SekdError(
                    f"key {key!r} stands for {' > '.join(path)} and, in another case, for "
                    f"{' > '.join(self.keys[fold(key)])}; each leaf needs a key of its own, compared without case"
                )

    def level_name(self, depth: int) -> str:
        """What the level is called, counted from 0; "level 3" for depth 2 where it has no name."""
        return self.level_names[depth] if depth < len(self.level_names) else f"level {depth + 1}"

    def nodes(self, depth: int, root: Sequence[str] = ()) -> tuple[Names, ...]:
        """Paths of the nodes at a depth below ``root``, in stable order."""
        start, stop = self.span(depth, tuple(root))
        return self._nodes[depth][start:stop]

    def children(self, node: Sequence[str]) -> tuple[Names, ...]:
        """Paths of the nodes right below a node, in stable order; none for a leaf."""
        return self.nodes(len(node), node) if len(node) < self.depth else ()

    def roots_with_a_choice(self) -> tuple[Names, ...]:
        """The last skipped level's nodes, or (), below which some node has several children."""
        roots = self.nodes(self.skip - 1) if self.skip else ((),)
        levels = range(self.skip, self.depth)
        return tuple(root for root in roots if any(len(self.nodes(depth, root)) > 1 for depth in levels))

    @cache  # noqa: B019 - a taxonomy lives as long as the process
    def span(self, depth: int, root: Names = ()) -> tuple[int, int]:
        """The nodes at a depth below ``root`` are consecutive in ``nodes(depth)``: their [start, stop)."""
        root = fold_path(root)

        def beginning(node: Names) -> Names:
            return node[: len(root)]

        level = self._folded[depth] if depth < self.depth else []
        return bisect_left(level, root, key=beginning), bisect_right(level, root, key=beginning)

    @cache  # noqa: B019
    def distinct_names(self, depth: int, root: Names = ()) -> int:
        start, stop = self.span(depth, root)
        return len(set(self.folded_names[depth][start:stop]))

    def path(self, path: Sequence[str]) -> Names:
        """The node as the tree spells it.

        Raises:
            SekdError: there is no such node.
        """
        try:
            return self._spelled[fold_path(path)]
        except KeyError:
            raise SekdError(f"the taxonomy holds no node {' > '.join(path)}") from None


def load_taxonomy(path: Path | str, *, skip: int = 0, level_names: Sequence[str] | None = None) -> Taxonomy:
    """Read a hierarchy file by what its name ends with.

    ``.json``: ``{leaf: [coarse, …, fine]}``. ``.nwk``, ``.newick``, ``.tre``, ``.tree``: a Newick tree. ``.csv``,
    ``.tsv``, ``.txt``: the taxon table of a Darwin Core archive; or one leaf a row, its key, then its names coarse to
    fine, under a header that names the levels. Cells at a row's end may be empty, where a leaf is less deep.

    Raises:
        SekdError: the file is missing or no such tree, an entry has no path, a key has two, or the tree has a cycle.
    """
    path = Path(path)
    try:
        header, paths = _read_paths(path)
    except OSError as error:
        raise SekdError(f"hierarchy {path} cannot be read ({error.strerror}): set data.hierarchy to {TREES}") from error
    try:
        _check_cycles(paths.values())
        return Taxonomy(paths.values(), skip=skip, level_names=level_names or header, keys=paths)
    except SekdError as error:
        raise SekdError(f"{path}: {error}") from None


def _read_paths(path: Path) -> tuple[list[str] | None, dict[str, list[str]]]:
    suffix = path.suffix.lower()
    if suffix in NEWICK:
        return None, newick_paths(path)
    if suffix not in TABLES:
        return None, _json_paths(path)
    return darwin_core_paths(path) if is_darwin_core(path) else _csv_paths(path)


def _json_paths(path: Path) -> dict[str, list[str]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=partial(_unrepeated, path))
    except SekdError:
        raise
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


def _unrepeated(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of the pairs; of a repeated key, JSON would keep the last value without a word."""
    table = dict(pairs)
    if len(table) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise SekdError(f"{path}: the key {repeated!r} stands there twice; expected a key of its own for each leaf")
    return table


def _csv_paths(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            lines = csv.reader(file, delimiter=separator)
            header, *rows = [[cell.strip() for cell in row] for row in lines if any(row)]
    except (ValueError, csv.Error) as error:
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
        if leaf in paths:
            raise SekdError(
                f"{path}, row {number}: {leaf!r} is the first cell of two rows; expected a key of its own for each "
                "leaf, then its names"
            )
        paths[leaf] = cells[:depth]
    return header[1:], paths


def _check_cycles(paths: Iterable[Sequence[str]]) -> None:
    """No name may be both above and below another; one directly below itself (a genus and its species) is allowed."""
    above: dict[tuple[str, str], Sequence[str]] = {}
    for path in paths:
        for upper, lower in combinations(fold_path(path), 2):
            if upper != lower and (lower, upper) in above:
                raise SekdError(
                    f"the tree has a cycle: {upper!r} stands above {lower!r} in {' > '.join(path)} "
                    f"and below it in {' > '.join(above[lower, upper])}"
                )
            above[upper, lower] = path
