"""A connection to a Ray cluster, and what its nodes can do; the only place that starts Ray or joins it.

Ray waits for minutes at an address where nobody answers, and then ends the process. So the address is asked first, by
the greeting that every gRPC server returns. Nothing is reported anywhere: usage statistics and the dashboard of what is
started here are off.
"""

import contextlib
import importlib.metadata
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipo_dspy.clip.weights import brief
from ipo_dspy.errors import ClusterError, InputError, ModelError, missing_package

logger = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds in which a cluster has to answer at its address."""

_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # with an empty SETTINGS frame
PACKAGES = ("ipo_dspy", "open_clip_torch", "torch")
"""What every node needs."""
NO_FOLDERS: Mapping[str, str] = MappingProxyType({})

_LOOK = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster that work can be sent to."""

    key: str
    host: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"node {self.host!r}, {self.key[:8]}"


class Cluster:
    """A joined cluster.

    Args:
        address: `auto`, `local` or `host:port`; see `RayScorer`.

    Raises:
        InputError: Ray is not installed, nobody answers there, or the cluster has other versions.
    """

    def __init__(self, address: str) -> None:
        self.ray = load_ray()
        if not self.ray.is_initialized():
            with _same_sigterm():
                _join(self.ray, address)
        self._session = self._joined()

    @property
    def is_joined(self) -> bool:
        """Whether the connection is still there; Ray would answer a question without one by starting a cluster."""
        return bool(self.ray.is_initialized()) and self._joined() == self._session

    def _joined(self) -> tuple[str, str]:
        context = self.ray.get_runtime_context()
        return str(context.gcs_address), str(context.get_job_id())

    @property
    def losses(self) -> tuple[type[Exception], ...]:
        """What Ray raises when a node or a process on it is gone."""
        told = self.ray.exceptions
        lost = (told.RayActorError, told.ObjectLostError, told.WorkerCrashedError, told.NodeDiedError)
        starved = (told.OutOfMemoryError, told.ActorUnschedulableError, told.TaskUnschedulableError)
        return (*lost, *starved, told.LocalRayletDiedError)

    def nodes(self, cpus: float, gpus: float) -> list[Node]:
        """The nodes that are up and have room for a worker of this size, in a fixed order."""
        up = [node for node in self.ray.nodes() if node["Alive"]]
        found = [
            Node(n["NodeID"], n["NodeManagerHostname"], n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0))
            for n in up
        ]
        return sorted((n for n in found if n.cpus >= cpus and n.gpus >= gpus), key=lambda node: node.key)

    def seats(self, cpus: float, gpus: float) -> list[Node]:
        """A node for each worker of this size that fits, one on every node before the second on any.

        Raises:
            ClusterError: not one fits.
        """
        nodes = self.nodes(cpus, gpus)
        if not nodes:
            has = ", ".join(f"{n['Resources'].get('CPU', 0):g}" for n in self.ray.nodes() if n["Alive"]) or "none"
            raise ClusterError(
                f"no node of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs for a worker (CPUs by node: {has}); "
                "add nodes with ray start, or ask for less: RayScorer(cpus_per_worker=1, gpus_per_worker=0)"
            )
        room = {node: int(min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus)) for node in nodes}
        return [node for turn in range(max(room.values())) for node in nodes if room[node] > turn]

    def check(
        self, nodes: Sequence[Node], model: str, paths: Sequence[str], folders: Mapping[str, str] = NO_FOLDERS
    ) -> None:
        """See that nodes have this package, the files of the model and folders, of which is told what they are for.

        Raises:
            InputError: another version of ipo_dspy, or none, or a folder that is not on a node.
            ModelError: a path of the model that is not on a node.
        """
        here = _versions()
        for node, there in zip(nodes, self._seen(nodes, [*paths, *folders]), strict=True):
            if there is None:
                logger.warning("%s did not answer within %g seconds; whatever is wrong there shows later", node, _LOOK)
                continue
            for package, version in here.items():
                _compare(package, version, there["versions"][package], node)
            for path in there["missing"]:
                if path in folders:
                    raise InputError(f"{node} has no {path!r}, {folders[path]}")
                raise ModelError(
                    f"{node} has no {path!r}, where the model {model!r} is; put it at that place on all "
                    "nodes, or name a model of the hub: model='hf-hub:ORG/NAME'"
                )

    def _seen(self, nodes: Sequence[Node], paths: Sequence[str]) -> list[dict[str, Any] | None]:
        """What each node has; None where it does not answer."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

        def look(names: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
            # Sent by value, as functions inside functions are: the package may be what a node lacks.
            import importlib.metadata
            import os

            found: dict[str, str | None] = {}
            for name in names:
                try:
                    found[name] = importlib.metadata.version(name)
                except importlib.metadata.PackageNotFoundError:
                    found[name] = None
            return {"versions": found, "missing": [path for path in paths if not os.path.exists(path)]}  # noqa: PTH110

        task = self.ray.remote(num_cpus=0, max_retries=0)(look)
        asked = [task.options(scheduling_strategy=At(n.key, soft=False)).remote(PACKAGES, list(paths)) for n in nodes]
        done, _ = self.ray.wait(asked, num_returns=len(asked), timeout=_LOOK)
        return [self._answer(one) if one in done else None for one in asked]

    def _answer(self, reference: Any) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.ray.get(reference)
        except self.ray.exceptions.RayError:  # the node went away
            return None
        return found


def load_ray() -> Any:
    """Ray, which may not be installed.

    Raises:
        InputError: Ray cannot be imported.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_package("Ray", extra="ray", purpose=f"to score on a cluster ({brief(error)})") from error
    return ray


def check_address(address: str) -> None:
    """See that an address is of a kind that can be joined.

    Raises:
        InputError: it is not.

    >>> check_address("head-node:6379")
    """
    if address.startswith("ray://"):
        raise InputError(
            f"{address!r} is for Ray's client, under which Ray Data does not run; start this on a node of the cluster, "
            "with 'auto' as the address; ray start --address=HOST:6379 makes this machine a node"
        )
    host, colon, port = address.rpartition(":")
    if address not in ("auto", "local") and not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise InputError(f"{address!r} is no address of a Ray cluster; write 'auto', 'local' or 'HOST:6379'")


def _join(ray: Any, address: str) -> None:
    check_address(address)
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        ray.init(address="local", include_dashboard=False, **options)
        return
    place = _current() if address == "auto" else address
    if place is None:
        raise InputError(
            "this machine is no node of a Ray cluster; start one with ray start --head, join one with "
            "ray start --address=HOST:6379, or write 'local'"
        )
    check_address(place)
    if why := _silence(place):
        raise InputError(
            f"no Ray cluster answers at {place!r} ({why}); check with ray status, or start one: ray start --head"
        )
    try:
        ray.init(address=place, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise InputError(
            f"the Ray cluster at {place!r} cannot be joined ({brief(error)}); this machine has to be one of its nodes: "
            f"ray start --address={place}"
        ) from error


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back afterwards: Ray sets one in Python and another in C, which aborts the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _current() -> str | None:
    """The cluster that a node of this machine belongs to, as ray start leaves it."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return file.read_text().strip() or None if file.is_file() else None


def _silence(address: str) -> str | None:
    """Why there is no cluster at an address; None if something answers as Ray does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false", "False"):
                return None
            connection.sendall(_GREETING)
            head = connection.recv(9)
    except (OSError, OverflowError) as error:
        return brief(error)
    return None if len(head) == 9 and head[3] == 4 else "what answers there is not Ray"


def _versions() -> dict[str, str | None]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _compare(package: str, here: str | None, there: str | None, node: Node) -> None:
    if here == there:
        return
    if there is None or package == "ipo_dspy":
        raise InputError(
            f"{node} has {package} {there or 'not at all'} and this process {here}; install the same on all nodes, "
            f"e.g. pip install {package}=={here}"
        )
    logger.warning("%s has %s %s and this process %s; the last digits of losses may differ", node, package, there, here)
