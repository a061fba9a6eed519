"""Bridges to experiment trackers."""
