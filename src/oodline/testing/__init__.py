"""Small inputs on which a detector can be tried in a line, and `check_detector`, which holds one to the contract."""

from oodline.testing.check import check_detector
from oodline.testing.texts import toy_texts, toy_tokenizer
from oodline.testing.toys import (
    activations_of,
    toy_image_guard,
    toy_images,
    toy_loader,
    toy_network,
    toy_problem,
    toy_protocol,
    toy_run,
)

__all__ = [
    "activations_of",
    "check_detector",
    "toy_image_guard",
    "toy_images",
    "toy_loader",
    "toy_network",
    "toy_problem",
    "toy_protocol",
    "toy_run",
    "toy_texts",
    "toy_tokenizer",
]
