"""Fuzzing: the long form is `pytest tests/fuzz --hypothesis-profile=long` (`make fuzz`)."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("long", settings.get_profile("default"), print_blob=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cases; each case overwrites the files that it reads."""
    return tmp_path_factory.mktemp("fuzz")
