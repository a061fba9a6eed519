"""A program as files that other programs read: weights, models, templates, scripts."""
