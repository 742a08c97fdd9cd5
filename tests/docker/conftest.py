"""The path to the helpers of the command line's tests."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "jobs")]
