"""What all tests share."""

from hypothesis import settings

# Time limits of single examples fail on busy machines and say nothing about the code.
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile("quick")
