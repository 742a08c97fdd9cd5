"""The undisturbed run that all campaigns are held against."""

import pytest

from tests.chaos.campaign import Campaign


@pytest.fixture(scope="session")
def made(reference) -> Campaign:
    return Campaign(**vars(reference))
