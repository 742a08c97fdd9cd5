"""Thin entry points, one per command. `python -m jobs.annotate` equals `trimline annotate`."""

import sys
from pathlib import Path

# `python -m` puts the working directory first on the path, where a user's own folder called
# `pipeline` would be taken for ours.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
