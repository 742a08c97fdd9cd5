"""Reduces an image's N visual tokens to K <= N. Needs torch and nothing else."""

from trim.cdpruner import CDPruner
from trim.divprune import DivPrune
from trim.full import Full
from trim.prumerge import PruMerge
from trim.random import Random
from trim.trim import Trim
from trim.trim_cover import TrimCover
from trim.types import Reduced, Reducer, VisualTokens
from trim.visionzip import VisionZip

__all__ = [
    "CDPruner",
    "DivPrune",
    "Full",
    "PruMerge",
    "Random",
    "Reduced",
    "Reducer",
    "Trim",
    "TrimCover",
    "VisionZip",
    "VisualTokens",
]
