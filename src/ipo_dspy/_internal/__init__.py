"""Helpers that are shared by the whole package and promised to nobody outside it."""
