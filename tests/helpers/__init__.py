"""Helpers of the tests: toy models, servers, processes, and data on disk."""
