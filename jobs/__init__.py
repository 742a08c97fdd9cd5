"""Runs the commands, one file each.

`python -m jobs COMMAND` and `python -m jobs.COMMAND` equal `trimline COMMAND`.
"""

import sys
from pathlib import Path

# `python -m` puts the working directory first on the path, where a user's own folder called
# `pipeline` would be taken for ours.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
