"""Trees in the formats in which biology publishes them: Newick, and the taxon table of a Darwin Core archive."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sekd.errors import SekdError

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")  # columns of Darwin Core, coarse to fine
NEWICK = (".nwk", ".newick", ".tree", ".tre")
DARWIN_CORE = {"taxonRank", "scientificName"}

Paths = dict[str, list[str]]


def newick_paths(path: Path) -> Paths:
    """Leaf -> path of every leaf of a Newick file: the names from the root's children down.

    Branch lengths and comments are ignored. A root without a name is no level; one with a name is.

    Raises:
        SekdError: the file is no Newick tree, holds several, or a node on a path has no name.
    """
    import newick

    try:
        trees = newick.loads(path.read_text(encoding="utf-8").strip(), strip_comments=True)
    except (ValueError, RecursionError) as error:
        raise SekdError(f"{path} is not a Newick tree ({error}): expected (a,b)name; with balanced brackets") from error
    if len(trees) != 1:
        raise SekdError(f"{path} holds {len(trees)} trees: expected one")
    paths: Paths = {}
    above: dict[int, list[str]] = {}
    for node in trees[0].walk():
        name = (node.unquoted_name or "").replace("_", " ").strip()
        parent = above[id(node.ancestor)] if node.ancestor else []
        if not name and node.ancestor:
            below = ", ".join(str(leaf.unquoted_name) for leaf in node.get_leaves()[:3])
            raise SekdError(f"{path}: the node above {below} has no name: a question needs the name of every node")
        above[id(node)] = [*parent, name] if name else parent
        if node.is_leaf and name in paths:
            was, now = (" > ".join(names) for names in (paths[name], above[id(node)]))
            raise SekdError(f"{path}: two leaves are called {name!r} ({was} and {now})")
        if node.is_leaf:
            paths[name] = above[id(node)]
    return paths


def is_darwin_core(path: Path) -> bool:
    """Whether a table is the taxon table of a Darwin Core archive, by its header."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return set(file.readline().strip().replace("\t", ",").replace('"', "").split(",")) >= DARWIN_CORE


def darwin_core_paths(path: Path) -> tuple[list[str], Paths]:
    """The levels, and species -> path, of a taxon table: every accepted row of rank species.

    The names above a species are those of the columns kingdom to genus where the table has them, else those of its
    ancestors by ``parentNameUsageID``. Levels that no species has are left out.

    Raises:
        SekdError: there is no species, or one lacks the name of a level that others have.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Tables with tabs hold quotes as they are; a short row's last cells are empty.
            tabs: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if "\t" in file.readline() else {}
            file.seek(0)
            table = list(csv.DictReader(file, restval="", **tabs))
    except (ValueError, csv.Error) as error:
        raise SekdError(f"{path} is not a table in UTF-8 ({error}): save it as one") from error
    by_id = {row.get("taxonID") or "": row for row in table}
    in_columns = "family" in table[0] and "genus" in table[0] if table else False
    found: dict[str, dict[str, str]] = {}
    for row in table:
        accepted = (row.get("taxonomicStatus") or "accepted").lower() in ("accepted", "valid")
        if (row.get("taxonRank") or "").lower() == "species" and accepted:
            ranks, species = row if in_columns else _ancestors(row, by_id), row["scientificName"].strip()
            if not species or species in found:
                raise SekdError(f"{path}: {species or 'no name'} is the scientificName of two species, or of none")
            found[species] = {rank: (ranks.get(rank) or "").strip() for rank in RANKS}
    levels = [rank for rank in RANKS if any(names[rank] for names in found.values())]
    if not found:
        raise SekdError(f"{path}: no row has taxonRank species: expected the taxon table of a Darwin Core archive")
    paths: Paths = {}
    for species, names in found.items():
        if lacking := [level for level in levels if not names[level]]:
            raise SekdError(
                f"{path}: {species} has no {lacking[0]}, which other species have; fill it in, or delete the row"
            )
        paths[species] = [*(names[level] for level in levels), species]
    return [*levels, "species"], paths


def _ancestors(row: Mapping[str, str], by_id: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    names: dict[str, str] = {}
    seen: set[str] = set()
    while (parent := row.get("parentNameUsageID") or "") in by_id and parent not in seen:
        seen.add(parent)
        row = by_id[parent]
        names[(row.get("taxonRank") or "").lower()] = row.get("scientificName") or ""
    return names
