"""Limits of a server; what exceeds them is refused with status 4xx, or 503 where it may succeed later."""

from dataclasses import dataclass

from ipo_dspy.argument_checks import require_int, require_number


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of each request, and of all requests together.

    Attributes:
        body_bytes: bytes of a request's body.
        image_pixels: pixels of an image, width times height.
        images: images of a request.
        body_seconds: time in which a body must arrive.
        request_seconds: time from the end of the body to the response.
        waiting_images: images of all requests that are not classified yet.
        waiting_bytes: bytes of all bodies in memory.

    Raises:
        InputError: a limit that is not positive.
    """

    body_bytes: int = 32 * 10**6
    image_pixels: int = 50 * 10**6
    images: int = 64
    body_seconds: float = 30.0
    request_seconds: float = 30.0
    waiting_images: int = 1024
    waiting_bytes: int = 512 * 10**6

    def __post_init__(self) -> None:
        for name in ("body_bytes", "image_pixels", "images", "waiting_images", "waiting_bytes"):
            require_int(name, getattr(self, name), 1)
        for name in ("body_seconds", "request_seconds"):
            require_number(name, getattr(self, name), 0.001)
