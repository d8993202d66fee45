"""The embedded world's taxonomies: five kingdoms of four levels. Every image shows four attributes, one a level."""

from sekd.embedded import BASE
from sekd.embedded.render import render
from sekd.embedded.trees import Tree, World, name_trees, read_attributes

LEVELS = ("order", "family", "genus", "species")
ENDINGS = ("iformes", "idae", "us", "ensis")
VALUES = 4  # attribute values a level, and so children a node
NAMES = (4, 6, 6, 6)  # names a level
PATTERNS = "plain striped dotted ringed"

# For each level the attribute and its values.
ATTRIBUTES = {
    "Fauna": {
        "colour": "red green blue yellow",
        "shape": "disc dart box kite",
        "pattern": PATTERNS,
        "fin": "finless spiked sailed crowned",
    },
    "Flora": {
        "colour": "pink purple orange white",
        "shape": "daisy tulip bell clover",
        "leaf": "leafless leftleaf rightleaf bothleaf",
        "pattern": PATTERNS,
    },
    "Vessel": {
        "shape": "bowl flask urn jar",
        "pattern": PATTERNS,
        "colour": "teal brown grey lime",
        "handle": "handleless lefthandle righthandle lidded",
    },
    "Moth": {
        "shape": "broad tailed narrow scalloped",
        "colour": "amber cyan rose olive",
        "antenna": "bald forked curled clubbed",
        "pattern": PATTERNS,
    },
    "Rocket": {
        "colour": "crimson azure gold silver",
        "flame": "unlit single double plume",
        "pattern": PATTERNS,
        "shape": "needle dome capsule saucer",
    },
}
_names = name_trees(dict.fromkeys(ATTRIBUTES, NAMES), ENDINGS, seed=7)
KINGDOMS = {
    name: Tree(name, read_attributes(levels), _names[name], seed, render)
    for seed, (name, levels) in enumerate(ATTRIBUTES.items(), start=11)
}
IN_DOMAIN = ("Fauna", "Vessel", "Rocket")
UNSEEN = ("Flora", "Moth")
DEMO = World("demo", LEVELS, KINGDOMS, IN_DOMAIN, UNSEEN, BASE)
