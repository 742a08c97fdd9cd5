"""The undisturbed run with which all campaigns compare their outputs."""

import pytest

from tests.chaos.campaign import Campaign


@pytest.fixture(scope="session")
def campaign(reference) -> Campaign:
    return Campaign(**vars(reference))
