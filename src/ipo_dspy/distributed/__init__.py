"""Encoding and scoring beyond one machine, on a Ray cluster; the only door to Ray.

::

    RayScorer (scorer)          what `IPO(scorer=...)` takes
     +-- places                 names of folders, tables and shards to parts
     +-- parts                  where the images of a part are
     +-- cluster                joining, and what nodes can do
     +-- encoding               parts to shards by Ray Data
     +-- pool                   the workers that hold shards
     +-- worker                 what runs on them: the encoder, the holder
         +-- store              features of parts on disk
         +-- shards             what goes between them and the driver
             +-- models         the driver's model on a worker

    RayTasks (tasks)            calls of one function, each a task: `ipo-dspy bench --ray`
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipo_dspy.distributed.ray_scorer import RayScorer as RayScorer

__all__ = ["RayScorer"]


def __getattr__(name: str) -> Any:
    # Only when asked for: workers open `shards`, and need no torch for it.
    if name == "RayScorer":
        from ipo_dspy.distributed.ray_scorer import RayScorer

        return RayScorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
