"""Find images that are in two sets, possibly under other names: testing on training images proves nothing.

Files are read only if two have the same size, so sets without copies cost little more than a listing.
What this gives up: an image that was saved again, scaled, or cropped is another file.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import dspy

from ipo_dspy.clip.image_io import identify
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.errors import ImageError


class Copy(NamedTuple):
    """An image, and one of another set that has the same bytes, each by its `source`."""

    image: str
    original: str


def find_copies(images: Iterable[dspy.Example], originals: Iterable[dspy.Example]) -> list[Copy]:
    """Return the images that are identical to others, byte for byte, in order; unreadable images never are."""
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
    return [Copy(one.source, known[key]) for _, one in candidates if (key := _content(one.image)) in known]


def _size(image: Any) -> int:
    """Bytes of an image's file, 0 where there is none; images of tables are base64 in a data URI."""
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
