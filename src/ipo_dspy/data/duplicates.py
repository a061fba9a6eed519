"""Find images that occur in two data sets, possibly under other names, such as training images in a test set.

Files are read only if two have the same size, so data sets without copies cost little more than a listing. The
trade-off: an image that was saved again, scaled, or cropped is not detected.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import dspy

from ipo_dspy.clip.image_io import identify
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.errors import ImageError


class Copy(NamedTuple):
    """An image and one of another data set with the same bytes, each identified by its `source`."""

    image: str
    original: str


def find_copies(images: Iterable[dspy.Example], originals: Iterable[dspy.Example]) -> list[Copy]:
    """Return the images that equal an original byte for byte, in order; unreadable images are skipped."""
    by_size: defaultdict[int, list[dspy.Example]] = defaultdict(list)
    for original in originals:
        by_size[_size(original.image)].append(original)
    candidates = [(size, image) for image in images if (size := _size(image.image)) and size in by_size]
    known = {
        key: original.source
        for size in {size for size, _ in candidates}
        for original in by_size[size]
        if (key := _content(original.image))
    }
    return [Copy(image.source, known[key]) for _, image in candidates if (key := _content(image.image)) in known]


def _size(image: Any) -> int:
    """Return the size of an image file, or 0 if there is none; images of tables are base64 data URIs."""
    place = getattr(image, "url", image)
    if isinstance(place, str) and place.startswith("data:"):
        body = place.partition(",")[2]
        return len(body) * 3 // 4 - body[-2:].count("=")
    return file_size(place) or 0


def _content(image: Any) -> str | None:
    try:
        return identify(image)[0]
    except ImageError:
        return None
