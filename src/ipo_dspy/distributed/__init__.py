"""Encoding, scoring and sweeps on a Ray cluster; the only importer of Ray.

::

    RayScorer (ray_scorer)      the backend that `IPO(backend=...)` takes
     +-- discovery              find the partitions of a folder, a table or shards
     |    +-- partitions        read the images of one partition
     +-- pool                   hand partitions to workers, and replace workers that die
     |    +-- worker            the actor: encodes partitions and scores them
     |         +-- partition_store  features of partitions on disk
     |         +-- model_ref    the same model on every node
     +-- cluster                join a cluster and check its nodes

    RayTasks (ray_tasks)        independent calls of one function: `ipo-dspy bench --ray`
"""

from ipo_dspy.distributed.ray_scorer import RayScorer as RayScorer

__all__ = ["RayScorer"]
