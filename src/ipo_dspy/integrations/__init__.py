"""Bridges to other programs: experiment trackers and scikit-learn."""
