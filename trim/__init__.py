"""Visual-token reduction: from an image's N visual tokens to K <= N. Needs torch and nothing else."""

from trim.full import Full
from trim.random import Random
from trim.trim import Trim
from trim.types import Reduced, Reducer, VisualTokens

__all__ = ["Full", "Random", "Reduced", "Reducer", "Trim", "VisualTokens"]
