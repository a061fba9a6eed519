"""Scores of templates from CLIP features: loss and accuracy, block by block."""
