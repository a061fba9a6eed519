"""Make the demo assets: a small CLIP and four datasets of drawn pictures; see README.md beside this file."""
