"""One input and one undisturbed run for all campaigns; `--chaos=long` runs them whole."""

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.campaign import make as make_campaign


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Campaign:
    return make_campaign(tmp_path_factory.mktemp("chaos"))
