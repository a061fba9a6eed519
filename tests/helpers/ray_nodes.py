"""A Ray cluster of several nodes on this machine."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipo_dspy.distributed.cluster import load_ray

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""Of Ray: a dead node is noticed after 2 seconds and not 30."""


@contextlib.contextmanager
def nodes(count: int = 2) -> Iterator[Any]:
    """A head that takes no work and nodes with one processor each."""
    ray = load_ray()
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False, "_system_config": QUICK}
    found = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(count):
        add_node(found)
    yield found
    ray.shutdown()
    found.shutdown()


def add_node(cluster: Any) -> Any:
    """One that finds the modules of the tests, but not the features that this process has put on disk."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    own = {"IPO_DSPY_CACHE": "off", "PYTHONPATH": path}
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, env_vars=own)


def processes(node: Any) -> list[int]:
    """Those of Ray's workers on a node of this machine."""
    raylet = node.all_processes["raylet"][0].process.pid
    return [int(pid) for pid in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()]


def kill(cluster: Any, node: Any) -> None:
    """All processes of a node, as when a machine fails."""
    workers = processes(node)
    cluster.remove_node(node, allow_graceful=False)
    for process in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
