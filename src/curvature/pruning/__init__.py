"""Structured pruning: what can be removed from a network without changing its function, and removing it."""

from curvature.pruning.build import build_search_space
from curvature.pruning.slimming import apply_recipe, recipe_of, slim, zero_groups
from curvature.pruning.space import Cut, NodeGroup, SearchSpace, rows_as_groups

__all__ = [
    "Cut",
    "NodeGroup",
    "SearchSpace",
    "apply_recipe",
    "build_search_space",
    "recipe_of",
    "rows_as_groups",
    "slim",
    "zero_groups",
]
