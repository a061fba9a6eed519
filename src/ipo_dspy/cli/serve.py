"""Command that serves a saved program over HTTP."""

import functools
import sys
from typing import Annotated

from typer import Option

from ipo_dspy.cli import options as opt
from ipo_dspy.cli import terminal
from ipo_dspy.errors import missing_package


def serve(
    program: opt.Program,
    *,
    host: Annotated[str, Option(help="Address to listen on; any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    workers: Annotated[int, Option(min=1, help="Number of processes, each with its own copy of the model.")] = 1,
    clip: opt.SavedModel,
    max_megabytes: Annotated[float, Option(min=0.001, help="Maximum size of a request body.")] = 32,
    max_megapixels: Annotated[
        float, Option(min=0.001, max=89, help="Maximum image size, width times height; at most 89.")
    ] = 50,
    max_images: Annotated[int, Option(min=1, help="Maximum number of images in a request.")] = 64,
    timeout: Annotated[float, Option(min=0.001, help="Maximum seconds to answer a request once it has arrived.")] = 30,
) -> None:
    """Serve a saved program over HTTP, with a page to drop pictures on, until Ctrl-C or SIGTERM.

    If the environment variable IPO_DSPY_SERVE_TOKEN is set, clients must send Authorization: Bearer TOKEN.
    """
    try:
        from ipo_dspy.serve import server
        from ipo_dspy.serve.limits import Limits
    except ModuleNotFoundError as error:
        raise missing_package("FastAPI and uvicorn", extra="serve", purpose=f"to serve a program ({error})") from error
    from ipo_dspy.classifier import ClipClassifier

    body_bytes, usual = round(max_megabytes * 10**6), Limits()
    limits = Limits(
        body_bytes=body_bytes,
        image_pixels=round(max_megapixels * 10**6),
        images=max_images,
        request_seconds=timeout,
        waiting_images=max(usual.waiting_images, max_images),
        waiting_bytes=max(usual.waiting_bytes, 2 * body_bytes),  # a body, and what it was before compression
    )
    load = functools.partial(ClipClassifier.from_file, program.absolute(), **vars(clip))
    token = server.read_token()
    with server.listen(host, port, token=token) as listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        protected = "a token is required" if token else "no token is required"
        announce = functools.partial(_announce, f"serving {program} at {address} ({protected}); press Ctrl-C to stop")
        server.run(load, listener, limits=limits, token=token, workers=workers, announce=announce)


def _announce(text: str) -> None:
    terminal.line(text)
    sys.stdout.flush()
