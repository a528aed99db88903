"""Where in an image the evidence for a class is, which parts make a verdict, and how faithful such answers are."""

from oodline.explain.concepts import Concept, Concepts
from oodline.explain.faithful import Curves, agreement_with_parts, curves, randomised_agreement
from oodline.explain.maps import PlaceMaps, place_maps
from oodline.explain.parts import Parts, shapley_parts
from oodline.explain.regions import grid_regions, regions_of_masks, superpixels
from oodline.explain.values import value_of

__all__ = [
    "Concept",
    "Concepts",
    "Curves",
    "Parts",
    "PlaceMaps",
    "agreement_with_parts",
    "curves",
    "grid_regions",
    "place_maps",
    "randomised_agreement",
    "regions_of_masks",
    "shapley_parts",
    "superpixels",
    "value_of",
]
