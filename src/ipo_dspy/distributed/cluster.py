"""Join a Ray cluster and check its nodes; the only module that starts or joins one.

If nothing listens at an address, Ray waits for minutes and then ends the process. So the port is probed first, with the
HTTP/2 preface that every gRPC server answers. Usage statistics and the dashboard of a cluster started here are off.
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
from typing import TYPE_CHECKING, Any, TypeAlias

from ipo_dspy._internal.untrusted import one_line_error
from ipo_dspy.argument_checks import require_int
from ipo_dspy.distributed.model_ref import files_of
from ipo_dspy.errors import ClusterError, Hint, InputError, ModelError, missing_package

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

logger = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a cluster has to respond at its address."""
PACKAGES = ("ipo_dspy", "open_clip_torch", "torch")
"""Packages that every node must have."""
Versions: TypeAlias = Mapping[str, str | None]
"""Package -> version on a node; None if it is not installed."""
NO_FOLDERS: Mapping[str, str] = MappingProxyType({})

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # with an empty SETTINGS frame
_CHECK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The maximum number of workers (None: as many as fit on the cluster), and the resources of each."""

    workers: int | None
    cpus: int  # also the number of threads
    gpus: float


@dataclass(frozen=True, slots=True)
class Node:
    """A live node of the cluster."""

    key: str
    host: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"node {self.host!r}, {self.key[:8]}"


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The outcome of a call whose process died."""

    error: str

    @classmethod
    def of(cls, error: Exception) -> "WorkerLost":
        """Describe an error by type and message, on one line."""
        return cls(f"{type(error).__name__}: {one_line_error(error)}")


class ClusterUser:
    """Base of classes that run on a cluster, joined on first use; see `RayScorer` for arguments and errors."""

    def __init__(
        self,
        address: str = "auto",
        *,
        num_workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
    ) -> None:
        check_address(address)
        self.address = address
        workers = None if num_workers is None else require_int("num_workers", num_workers, 1)
        self.size = WorkerSpec(workers, require_int("cpus_per_worker", cpus_per_worker, 1), gpus_per_worker)
        self._cluster: Cluster | None = None

    def check(self, backbone: "Backbone", folders: Mapping[str, str] = NO_FOLDERS) -> None:
        """Join the cluster and check that its nodes have free resources, this package, the model's files and `folders`.

        A value of `folders` is purpose and remedy, for the error of a node that lacks the path.

        Raises:
            InputError: no cluster responds, or a node lacks a package or a folder.
            ModelError: a node lacks a file of the model.
            ClusterError: no node has room for one worker.
        """
        cluster = self._joined()
        for node, versions, missing in cluster.inspect(self.size, [*files_of(backbone), *folders]):
            for package, version in versions.items():
                _compare(package, importlib.metadata.version(package), version, node)
            for path in missing:
                if path in folders:
                    raise InputError(f"{node} has no {path!r}, {folders[path]}")
                raise ModelError(
                    f"{node} has no {path!r}, required by the model {backbone.name!r}",
                    hint=Hint("copy it to all nodes, or use a Hub model: {model}", model="hf-hub:ORG/NAME"),
                )

    def _joined(self) -> "Cluster":
        if self._cluster is None or not self._cluster.is_joined:
            self._cluster = Cluster(self.address)
        return self._cluster

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r}, num_workers={self.size.workers})"


class Cluster:
    """A joined cluster; raises `InputError` without Ray, or if no cluster responds at the address."""

    def __init__(self, address: str) -> None:
        self.ray = load_ray()
        if not self.ray.is_initialized():
            with _same_sigterm():
                _join(self.ray, address)
        self._session = self._current_session()

    @property
    def is_joined(self) -> bool:
        """True while the connection is open. Without one, Ray would start a cluster on the next call."""
        return bool(self.ray.is_initialized()) and self._current_session() == self._session

    def _current_session(self) -> tuple[str, str]:
        context = self.ray.get_runtime_context()
        return str(context.gcs_address), str(context.get_job_id())

    def worker_slots(self, size: WorkerSpec) -> list[Node]:
        """Return a node for each worker that fits, sorted by key; every node gets one before any gets a second."""
        alive = [(node, node["Resources"]) for node in self.ray.nodes() if node["Alive"]]
        nodes = [Node(n["NodeID"], n["NodeManagerHostname"], r.get("CPU", 0), r.get("GPU", 0)) for n, r in alive]
        capacity = {
            node: int(min(node.cpus // size.cpus, node.gpus // size.gpus if size.gpus else node.cpus))
            for node in sorted(nodes, key=lambda node: node.key)
        }
        if not any(capacity.values()):
            cpus = ", ".join(f"{node.cpus:g}" for node in nodes) or "none"
            needed = f"{size.cpus:g} CPUs and {size.gpus:g} GPUs"
            remedy = "add nodes with ray start, or request less: {cpus_per_worker}, {gpus_per_worker}"
            raise ClusterError(
                f"no node of the Ray cluster has {needed} for a worker (CPUs by node: {cpus})",
                hint=Hint(remedy, cpus_per_worker=1, gpus_per_worker=0),
            )
        return [node for turn in range(max(capacity.values())) for node in capacity if capacity[node] > turn]

    def worker_count(self, size: WorkerSpec, partitions: int) -> int:
        """Return the number of workers for this many partitions, at most what fits on the live nodes."""
        return min(partitions, len(self.worker_slots(size)), size.workers or partitions)

    def inspect(self, size: WorkerSpec, paths: Sequence[str]) -> Iterator[tuple[Node, Versions, list[str]]]:
        """Yield each node that can have a worker, with its versions of `PACKAGES` and the paths that it lacks."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        def look(names: Sequence[str], paths: Sequence[str]) -> tuple[Versions, list[str]]:
            # Ray pickles a nested function by value, so it runs even where this package is not installed.
            import contextlib
            import importlib.metadata
            import os

            versions: dict[str, str | None] = dict.fromkeys(names)
            for name in names:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    versions[name] = importlib.metadata.version(name)
            return versions, [path for path in paths if not os.path.exists(path)]  # noqa: PTH110

        task = self.ray.remote(num_cpus=0, max_retries=0)(look)
        nodes = list(dict.fromkeys(self.worker_slots(size)))
        calls = [task.options(scheduling_strategy=On(node.key, soft=False)).remote(PACKAGES, paths) for node in nodes]
        self.ray.wait(calls, num_returns=len(calls), timeout=_CHECK_SECONDS)
        for node, call in zip(nodes, calls, strict=True):
            try:
                versions, missing = self.ray.get(call, timeout=0)
            except self.ray.exceptions.RayError:  # not done, or the node died
                logger.warning("%s did not respond within %g s; continuing without checking it", node, _CHECK_SECONDS)
            else:
                yield node, versions, missing


def load_ray() -> Any:
    """Return the module `ray`; raise `InputError` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise missing_package("Ray", extra="ray", purpose=f"to score on a cluster ({one_line_error(error)})") from error
    return ray


def check_address(address: str) -> None:
    """Raise `InputError` if an address is not one that a driver can join."""
    if address.startswith("ray://"):
        raise InputError(
            f"{address!r} is a Ray Client address, which is not supported; run on a node of the cluster with the "
            "address 'auto'; ray start --address=HOST:6379 makes this machine a node"
        )
    host, colon, port = address.rpartition(":")
    if address not in ("auto", "local") and not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise InputError(f"{address!r} is not a valid Ray address; use 'auto', 'local' or 'HOST:6379'")


def _join(ray: Any, address: str) -> None:
    options = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        ray.init(address="local", include_dashboard=False, **options)
        return
    target = _current() if address == "auto" else address
    if target is None:
        raise InputError(
            "this machine is not a node of a Ray cluster; start one with ray start --head, join one with "
            "ray start --address=HOST:6379, or use 'local'"
        )
    check_address(target)
    if reason := _probe_error(target):
        raise InputError(
            f"no Ray cluster answers at {target!r} ({reason}); check with ray status, or start one: ray start --head"
        )
    try:
        ray.init(address=target, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise InputError(
            f"the Ray cluster at {target!r} cannot be joined ({one_line_error(error)}); this machine must be one of "
            f"its nodes: ray start --address={target}"
        ) from error


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM: Ray installs one in Python, and one in C that aborts the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _current() -> str | None:
    """Return the address of the cluster that this machine is a node of, as `ray start` recorded it."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return file.read_text().strip() or None if file.is_file() else None


def _probe_error(address: str) -> str | None:
    """Return the reason why no cluster can be at an address; None if a gRPC server responds."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false", "False"):
                return None
            connection.sendall(_HTTP2_PREFACE)
            head = connection.recv(9)
    except (OSError, OverflowError) as error:
        return one_line_error(error)
    return None if len(head) == 9 and head[3] == 4 else "the port is not a Ray GCS server"


def _compare(package: str, here: str, there: str | None, node: Node) -> None:
    if here == there:
        return
    if there is None or package == "ipo_dspy":
        raise InputError(
            f"{node} has {package} {there or 'not installed'}, this process {here}; install the same on all nodes: "
            f"pip install {package}=={here}"
        )
    logger.warning("%s has %s %s, this process %s; the last digits of losses may differ", node, package, there, here)
