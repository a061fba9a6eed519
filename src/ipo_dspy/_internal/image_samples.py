"""A sample of a set of images by their content, small enough to be saved with a program, that finds its images again.

It has the lowest hashes of the set (Broder, On the Resemblance and Containment of Documents, 1997). Whether another
image belongs to the set is known if its hash is as low; so the overlap with another set is known from a few images.
"""

from collections.abc import Iterable, Sequence

SIZE = 64
"""Maximum number of hashes."""
_DIGITS = 12
"""Hexadecimal digits of a hash: among a million images, none of another set is taken for one of a sample by chance."""


def sample_of(keys: Iterable[str]) -> list[str]:
    """Return the sample of images with these hashes of their content."""
    return sorted({key[:_DIGITS] for key in keys})[:SIZE]


def share_inside(keys: Iterable[str], sample: Sequence[str]) -> float:
    """Return the share of images, 0 to 1, that are in the set of a sample, estimated on those with low hashes.

    >>> share_inside(["0a", "ff", "1b", "22"], ["0a", "22"])  # all images of a small set
    0.5
    >>> sample = sample_of(f"{number:064x}" for number in range(1000))
    >>> share_inside([f"{number:064x}" for number in range(0, 2000, 2)], sample)
    1.0
    """
    short = {key[:_DIGITS] for key in keys}
    known = [key for key in short if len(sample) < SIZE or key <= sample[-1]]
    return len(short.intersection(sample)) / len(known) if known else 0.0
