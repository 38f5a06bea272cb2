"""The executor on fakes."""

import pytest

from tests.fakes.executor import World


@pytest.fixture
def world():
    """Everything around the executor, with scripts for a run that goes well."""
    return World()
