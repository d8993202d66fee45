"""The embedded world of many trees: twelve taxonomies of three to six levels, eight to distil on and four unseen."""

from pathlib import Path

from sekd.embedded.forest_drawing import render
from sekd.embedded.trees import Tree, World, name_trees, read_attributes

LEVELS = ("class", "order", "family", "subfamily", "genus", "species")
ENDINGS = ("aria", "iformes", "idae", "inae", "us", "ensis")
FIRST_NAMES, NAMES = 4, 5  # names at the first level and at each level below

# For each tree, level by level, the attribute and its values.
ATTRIBUTES = {
    "Mushroom": {
        "colour": "red yellow purple white",
        "shape": "flatcap roundcap conecap tallcap",
        "foot": "bare skirted bulbous twin",
    },
    "Shield": {
        "shape": "heater lozenge roundel hexagon",
        "pattern": "plain striped dotted barred",
        "colour": "red blue green yellow",
    },
    "Boat": {
        "shape": "barge canoe skiff tub",
        "sail": "sailless lateen schooner square",
        "colour": "red white brown",
        "sky": "day dusk night",
    },
    "Lantern": {
        "colour": "red orange green blue",
        "hanger": "loose hooked chained roofed",
        "shape": "globe column hourglass",
        "pattern": "plain striped ringed",
    },
    "Bird": {
        "shape": "plump slim arrow gull",
        "colour": "red yellow teal",
        "tail": "tailless fantail longtail",
        "pattern": "plain barred dotted",
        "sky": "day dusk night",
    },
    "House": {
        "sky": "day dusk night dawn",
        "shape": "gabled flatroof hut",
        "colour": "red white brown",
        "chimney": "chimneyless onechimney twochimney",
        "pips": "one two three",
    },
    "Beetle": {
        "colour": "red green blue orange",
        "horn": "hornless unicorn twohorn",
        "shape": "round oblong pear",
        "pattern": "plain striped ringed",
        "ground": "sand grass",
        "corner": "clear sun",
    },
    "Robot": {
        "shape": "cube trapeze orb wide",
        "antenna": "none single pair",
        "pips": "one two three",
        "colour": "teal yellow pink",
        "frame": "open framed",
        "pattern": "plain barred",
    },
    "Kite": {
        "colour": "red yellow pink green",
        "tail": "cut ribbon bows forktail",
        "shape": "diamond delta hexkite arch",
    },
    "Cake": {
        "candle": "unlit onecandle twocandle threecandle",
        "shape": "slab tower wedge dome",
        "colour": "pink white brown",
        "pattern": "plain dotted barred",
    },
    "Cactus": {
        "shape": "pillar barrel paddle spike",
        "ground": "sand grass snow",
        "arm": "armless onearm twoarm",
        "colour": "green teal orange",
        "corner": "clear sun moon",
    },
    "Crystal": {
        "shape": "shard prism cluster block",
        "colour": "purple green yellow",
        "sky": "day dusk night",
        "pattern": "plain striped ringed",
        "pips": "one two",
        "frame": "open framed",
    },
}
ENDS = {"Boat": {"sailless"}, "Bird": {"tailless"}}  # their paths end early
UNSEEN = ("Kite", "Cake", "Cactus", "Crystal")  # one of each depth

_names = name_trees(
    {name: [FIRST_NAMES] + [NAMES] * (len(levels) - 1) for name, levels in ATTRIBUTES.items()}, ENDINGS, seed=12
)
TREES = {
    name: Tree(name, read_attributes(levels), _names[name], seed, render, frozenset(ENDS.get(name, ())), balanced=True)
    for seed, (name, levels) in enumerate(ATTRIBUTES.items(), start=101)
}
FOREST = World(
    "forest",
    LEVELS,
    TREES,
    tuple(name for name in TREES if name not in UNSEEN),
    UNSEEN,
    Path(__file__).parent / "forest_base",
)
