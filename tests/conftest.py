"""What all tests share."""

from collections.abc import Iterator

import dspy
import pytest
from hypothesis import settings

# Time limits of single examples fail on busy machines and say nothing about the code.
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile("quick")


@pytest.fixture
def no_cache() -> Iterator[None]:
    """Without DSPy's cache, so that every question reaches the server."""
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    yield
    dspy.cache = before
