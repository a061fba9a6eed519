"""Encoding and scoring on a real Ray cluster of several nodes on this machine, compared with one process without it."""

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.cli_process import Processes
from helpers.comparison import assert_alike
from helpers.ray_nodes import add_node, kill, nodes, processes
from ipo_dspy import IPO, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.distributed import RayScorer
from ipo_dspy.distributed.cluster import _join, load_ray
from ipo_dspy.distributed.worker import Asked
from ipo_dspy.errors import ClusterError, DataError, ImageError, InputError, ModelError
from ipo_dspy.run.events import Event
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template

SHOTS = 12
"""Of the fixture `task`."""

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ipo_dspy[ray]'")

TEMPLATES = [Template.parse(f"{words} <CLASS>.") for words in ("a photo of a", "an icon of a", "a black and white")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes() as found:
        yield found


@pytest.fixture(scope="module")
def started(cluster: Any) -> RayScorer:
    return RayScorer(cluster.address)


@pytest.fixture
def warm(started: RayScorer) -> Iterator[RayScorer]:
    """A scorer whose workers have started, which takes them seconds; tests may set its images and its store."""
    yield started
    started.images = started.store = None


@pytest.fixture(scope="module")
def backbone(task: demo.DemoTask) -> Backbone:
    return task.program.backbone


def run(task: demo.DemoTask, scorer: RayScorer | None, *more: Any, **goal: Any) -> tuple[list[Any], list[Event]]:
    """Trials, and what the journal would hold of scores, images and predictions."""
    events: list[Event] = []
    optimizer = IPO(proposer="evolution", steps=4, backend=scorer, observers=[events.append, *more], **goal)
    best = optimizer.compile(task.program, task.trainset, valset=task.valset)
    kinds = {"search_started", "evaluation", "prediction_changed", "selected"}
    return best.detailed_results.trials, [event for event in events if event["event"] in kinds]


@pytest.fixture(scope="module")
def local(task: demo.DemoTask) -> tuple[list[Any], list[Event]]:
    return run(task, None)


def data(images: Sequence[Any]) -> list[bytes]:
    """The files behind bundled images."""
    return [base64.b64decode(image.url.partition(",")[2]) for image in images]


@pytest.mark.end_to_end
def test_a_run_on_a_cluster_is_the_run_on_one_machine(warm: RayScorer, task: demo.DemoTask, local: Any) -> None:
    assert_alike(run(task, warm), local)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "goal",
    [
        {"objective": "macro_f1", "min_recall": {"bear": 0.5}},
        {"objective": "top5"},
        {"costs": {("bear", "cat"): 5.0, ("cat", "bear"): 0.0}},
    ],
    ids=["macro_f1", "top5", "costs"],
)
def test_other_objectives_are_those_of_one_machine(goal: Any, warm: RayScorer, task: demo.DemoTask) -> None:
    assert_alike(run(task, warm, **goal), run(task, None, **goal))


@pytest.mark.end_to_end
def test_scores_of_any_source_are_those_of_one_machine(
    warm: RayScorer, task: demo.DemoTask, backbone: Backbone, tmp_path: Path
) -> None:
    """Folder, table and shards, read by the workers; with parts so small that each worker has several."""
    images, labels = data([example.image for example in task.testset[:260]]), task.testset[:260].labels()
    as_folder(tmp_path / "folder", images, labels)
    as_parquet(tmp_path / "table.parquet", images, [task.classes.index(label) for label in labels])
    as_shards(tmp_path / "shards", images, labels)
    for place in ("folder", "table.parquet", "shards/*.tar"):
        warm.images = tmp_path / place
        warm.check(backbone)
        wide = warm.wide(backbone, task.classes)
        assert wide is not None
        assert wide.images == len(images)
        assert_alike(wide.scorer.score(TEMPLATES), here(backbone, images, labels, task.classes).score(TEMPLATES))


def as_folder(folder: Path, images: Sequence[bytes], labels: Sequence[str]) -> None:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{i:04}.png").write_bytes(image)


def as_parquet(file: Path, images: Sequence[bytes], labels: Sequence[int]) -> None:
    cells = [{"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table({"image": cells, "label": labels}), file, row_group_size=100)


def as_shards(folder: Path, images: Sequence[bytes], labels: Sequence[str], *, each: int = 100) -> None:
    folder.mkdir()
    for start in range(0, len(images), each):
        with tarfile.open(folder / f"{start:06}.tar", "w") as file:
            for i in range(start, min(start + each, len(images))):
                for suffix, content in (("png", images[i]), ("cls", labels[i].encode())):
                    member = tarfile.TarInfo(f"{i:06}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))


def here(backbone: Backbone, images: Sequence[Any], labels: Sequence[str], classes: Sequence[str]) -> ClipScorer:
    return ClipScorer(backbone, encode_images(backbone, images).features, labels, classes)


@pytest.mark.end_to_end
def test_other_labels_are_another_task(
    warm: RayScorer, task: demo.DemoTask, backbone: Backbone, tmp_path: Path
) -> None:
    """Or a run would resume with scores of wrong labels. Images that cannot be read have no score."""
    for name, image in zip(("a", "b"), data([example.image for example in task.testset[:2]]), strict=True):
        (tmp_path / f"{name}.png").write_bytes(image)
    found, warm.images = [], tmp_path / "list.csv"
    for labels in (task.classes[:2], task.classes[1::-1]):
        (tmp_path / "list.csv").write_text(f"image,label\na.png,{labels[0]}\nb.png,{labels[1]}\n")
        wide = warm.wide(backbone, task.classes)
        assert wide is not None
        found.append(wide.fingerprint)
    assert found[0] != found[1]
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 2 images to score on can be read; the first: .*a\.png"):
        warm.wide(backbone, task.classes, skip_unreadable=True)
    with pytest.raises(
        ImageError,
        match=r"^2 of 2 images cannot be read:\n  .*a\.png.*\n  .*b\.png.*\npass skip_unreadable=True to skip them$",
    ):
        warm.wide(backbone, task.classes)


@pytest.mark.end_to_end
def test_a_run_scores_on_images_that_are_never_listed(warm: RayScorer, task: demo.DemoTask, tmp_path: Path) -> None:
    """The training set is what is described; candidates get the scores of all images of the shards."""
    images, labels = data([example.image for example in task.testset[:200]]), task.testset[:200].labels()
    as_shards(tmp_path / "shards", images, labels)
    warm.images = tmp_path / "shards"
    optimizer = IPO(proposer="evolution", steps=1, backend=warm)
    best = optimizer.compile(task.program, task.trainset[:24])
    scorer = here(task.program.backbone, images, labels, task.classes)
    for trial in best.detailed_results.trials:
        assert_alike(trial.score, scorer.score([trial.template])[0])


@pytest.mark.end_to_end
def test_choices_bad_images_and_features_on_disk(
    warm: RayScorer, task: demo.DemoTask, backbone: Backbone, tmp_path: Path
) -> None:
    """All options of one set of images; features on disk are read from there, and replaced where they are damaged."""
    images: list[Any] = list(data([example.image for example in task.trainset[:140]]))
    labels = task.trainset[:140].labels()
    images[3] = b"no image"
    choices = [(label, next(name for name in task.classes if name != label)) for label in labels]
    encoded = encode_images(backbone, images, skip_unreadable=True)
    kept = [i for i in range(140) if i != 3]
    local = ClipScorer(
        backbone, encoded.features, [labels[i] for i in kept], task.classes, choices=[choices[i] for i in kept]
    )
    warm.store = tmp_path / "features"

    def check() -> None:
        held = warm.hold(backbone, images, labels, task.classes, choices=choices, skip_unreadable=True)
        assert (held.kept, held.keys, held.skipped) == (encoded.kept, encoded.keys, encoded.skipped)
        assert_alike(held.scorer.score(TEMPLATES), local.score(TEMPLATES))
        assert held.scorer.predict(TEMPLATES[0]) == local.predict(TEMPLATES[0])

    check()
    files = sorted((tmp_path / "features").iterdir())
    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].write_bytes(b"cut")
    check()
    after = {file: file.stat().st_mtime_ns for file in sorted((tmp_path / "features").iterdir())}
    assert after.keys() == before.keys()
    assert [file for file in files if after[file] != before[file]] == files[:1]
    with pytest.raises(
        ImageError,
        match=r"^image of 8 bytes in memory cannot be read .* \(image 4 of 140\); pass skip_unreadable=True",
    ):
        warm.hold(backbone, images, labels, task.classes)
    images[130] = b"nor this"  # in another part
    with pytest.raises(
        ImageError, match=r"^2 of 140 images cannot be read:\n  image of 8 bytes .*\n  image of 8 bytes"
    ):
        warm.hold(backbone, images, labels, task.classes)


@pytest.mark.end_to_end
def test_a_set_may_be_dropped_while_others_are_gone_through(
    warm: RayScorer, task: demo.DemoTask, backbone: Backbone
) -> None:
    """Garbage is collected whenever Python likes, also within a question."""
    images, labels = data([example.image for example in task.trainset[:4]]), task.trainset[:4].labels()
    held = [warm.hold(backbone, images, labels, task.classes) for _ in range(2)]
    pool = warm._pool
    assert pool is not None
    first, second = list(pool._sets)[-2:]
    (worker,) = pool._sets[second].holders.values()
    for _ in pool._sets.items():
        held[:-1] = []
    assert_alike(held[-1].scorer.score(TEMPLATES), here(backbone, images, labels, task.classes).score(TEMPLATES))
    assert first not in pool._sets
    assert second in pool._sets
    nothing = Asked(first, (), (first, *pool._sets), torch.float32, 1.0, 0.0)
    text = np.zeros((1, 1), np.float32)
    gone = replace(nothing, parts=(0,))
    assert pool.cluster.ray.get(worker.predict.remote(nothing, text)) == {}
    with pytest.raises(KeyError):  # the worker has dropped it, too
        pool.cluster.ray.get(worker.predict.remote(gone, text))


@pytest.mark.end_to_end
def test_a_worker_without_the_model_is_named(warm: RayScorer, task: demo.DemoTask, tmp_path: Path) -> None:
    """Gone between the start of the run and that of the workers, or replaced by another."""
    folder = tmp_path / "model"
    shutil.copytree(demo.model_path(), folder)
    backbone = load_backbone(f"local-dir:{folder}", None, device="cpu")
    folder.rename(tmp_path / "away")
    with pytest.raises(
        ModelError,
        match=rf"^node '.*', \w{{8}} has no '{folder}', required by the model 'local-dir:.*'; copy it to all nodes",
    ):
        warm.check(backbone)
    shutil.copytree(demo.model_path(), folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {**config.get("preprocess_cfg", {}), "mean": [0.1, 0.2, 0.3]}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"fingerprint \w+ here and \w+ on the driver; put .* \(on node '"):
        warm.hold(backbone, data([e.image for e in task.trainset[:4]]), task.trainset[:4].labels(), task.classes)


@pytest.mark.end_to_end
def test_a_label_outside_the_classes_is_named(
    warm: RayScorer, task: demo.DemoTask, backbone: Backbone, tmp_path: Path
) -> None:
    as_shards(tmp_path / "shards", data([task.trainset[0].image]), ["zebu"])
    warm.images = tmp_path / "shards"
    with pytest.raises(DataError, match=r"image 1 of .*000000.tar has the unknown label 'zebu'; expected"):
        warm.wide(backbone, task.classes)
    with pytest.raises(InputError, match=r"requires one list of class names"):
        warm.wide(backbone, None)


@pytest.mark.end_to_end
def test_a_cluster_without_room_is_reported(cluster: Any, backbone: Backbone) -> None:
    with pytest.raises(ClusterError, match=r"no node of the Ray cluster has 64 CPUs and 0 GPUs for a worker \(CPUs"):
        RayScorer(cluster.address, cpus_per_worker=64).check(backbone)


@pytest.mark.end_to_end
def test_killed_nodes_cost_time_and_no_results(
    cluster: Any, task: demo.DemoTask, local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One while images are encoded, one while it is asked for the scores of a step."""
    doomed = [add_node(cluster), add_node(cluster)]
    killed: list[str] = []
    dying = threading.Timer(1.0, kill, (cluster, doomed[1]))

    def watch(event: Event) -> None:
        if event["event"] == "progress" and event["stage"] == "training images" and not killed:
            killed.append("encoding")
            kill(cluster, doomed[0])
        if event["event"] == "trial" and event["index"] == 9 and len(killed) == 1:
            killed.append("scoring")
            for process in processes(doomed[1]):
                os.kill(process, signal.SIGSTOP)  # so that the question of the next step finds it and stays unanswered
            dying.start()

    assert_alike(run(task, RayScorer(cluster.address), watch), local)
    dying.join()
    assert killed == ["encoding", "scoring"]
    assert "a Ray worker died; redistributing its images" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_the_only_worker_may_die_with_its_node_between_two_steps(
    cluster: Any, backbone: Backbone, task: demo.DemoTask, attempt: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One part of the images, so one worker; the node is dead before the cluster knows.

    In odd attempts the worker was given back before, so that the next one is sent to the dead node.
    """
    images, labels = data([e.image for e in task.trainset[:24]]), task.trainset[:24].labels()
    doomed = add_node(cluster)
    scorer = RayScorer(cluster.address, num_workers=1)
    held = scorer.hold(backbone, images, labels, task.classes)
    expected = held.scorer.score(TEMPLATES)
    pool = scorer._pool
    assert pool is not None
    (key,) = pool._workers.values()
    if attempt % 2:
        scorer.close()
    kill(cluster, next(node for node in cluster.worker_nodes if node.node_id == key))
    assert_alike(held.scorer.score(TEMPLATES), expected)
    if key != doomed.node_id:
        add_node(cluster)
        cluster.remove_node(doomed)
    assert attempt % 2 or "a Ray worker died; redistributing its images" in caplog.text
    scorer.close()


@pytest.mark.end_to_end
def test_features_that_are_lost_with_a_node_are_encoded_again(
    cluster: Any, warm: RayScorer, task: demo.DemoTask, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    """By the worker that is left: each of them held a part."""
    images, labels = data([example.image for example in task.trainset]) * 8, task.trainset.labels() * 8
    held = warm.hold(backbone, images, labels, task.classes)
    expected = held.scorer.score(TEMPLATES)
    assert_alike(expected, here(backbone, images, labels, task.classes).score(TEMPLATES))
    assert warm._pool is not None
    assert len(set(warm._pool._workers.values())) == 2  # the nodes of the workers
    key = next(iter(warm._pool._workers.values()))
    kill(cluster, next(node for node in cluster.worker_nodes if node.node_id == key))
    assert_alike(held.scorer.score(TEMPLATES), expected)
    assert "a Ray worker died; redistributing its images" in caplog.text


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.mark.end_to_end
def test_the_command_line_on_a_cluster(cluster: Any, commands: Processes, task: demo.DemoTask, tmp_path: Path) -> None:
    """In a process of its own that joins the cluster, compared with one without it; both write the same journal."""
    as_folder(tmp_path / "photos", data([example.image for example in task.trainset]), task.trainset.labels())
    command = ["optimize", str(tmp_path / "photos"), "--model", "demo", "--steps", "1", "--shots", "4", "--log-dir"]
    main_quietly([*command, str(tmp_path / "local")])
    done = commands.run(*command, str(tmp_path / "far"), "--ray", cluster.address, "--ray-workers", "2")
    assert (done.code, done.err) == (0, "")
    kinds = {"search_started", "description", "trial", "evaluation", "prediction_changed", "selected"}
    one, other = ([e for e in replay(tmp_path / run) if e["event"] in kinds] for run in ("local", "far"))
    assert_alike(without_time(one), without_time(other))


@pytest.mark.end_to_end
def test_sigterm_ends_a_run_on_a_cluster_after_the_step(
    cluster: Any, commands: Processes, task: demo.DemoTask, tmp_path: Path
) -> None:
    """Ray's own handler would abort the process."""
    as_folder(tmp_path / "photos", data([example.image for example in task.trainset]), task.trainset.labels())
    out = tmp_path / "run"
    command = ["optimize", str(tmp_path / "photos"), "--model", "demo", "--steps", "10000", "--shots", "4", "--log-dir"]
    child = commands.begin(*command, str(out), "--ray", cluster.address)
    while not ((out / FILE_NAME).exists() and kinds_of(out) & {"trial"}):
        os.kill(child, 0)  # raises once it has ended
        time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    done = commands.end()
    assert done.code == 128 + signal.SIGTERM, done.err
    assert "stopped; resume with: ipo-dspy optimize" in done.err
    assert {"best.json", "report.html"} <= {path.name for path in out.iterdir()}


def kinds_of(run: Path) -> set[str]:
    return {event["event"] for event in replay(run)}


def main_quietly(arguments: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)


def without_time(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name != "time"} for event in events]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at '127.0.0.1:1' \(.*refused\); check with ray status"),
        ("head", "'head' is not a valid Ray address; use 'auto', 'local' or 'HOST:6379'"),
        ("head:99999", "'head:99999' is not a valid Ray address"),
        ("ray://head:10001", "'ray://head:10001' is a Ray Client address, which is not supported"),
        ("auto", "this machine is not a node of a Ray cluster; start one with ray start --head"),
    ],
)
def test_an_invalid_address_is_reported(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=message):
        _join(load_ray(), address)


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "timed out"), (b"HTTP/1.1 400 Bad", "the port is not a Ray GCS server")]
)
def test_a_server_that_is_not_a_cluster_is_reported(answer: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing, and one that says something else."""
    monkeypatch.setattr("ipo_dspy.distributed.cluster.PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)
                time.sleep(0 if answer else 1)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(InputError, match=rf"no Ray cluster answers at '127.0.0.1:\d+' \({why}\)"):
            _join(load_ray(), f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.end_to_end
def test_without_ray_the_extra_is_named(commands: Processes) -> None:
    """In a process where the import fails."""
    done = commands.python(
        "import sys; sys.modules['ray'] = None; import ipo_dspy; ipo_dspy.RayScorer('auto').check(None)"
    )
    assert done.err.splitlines()[-1].endswith("run pip install 'ipo_dspy[ray]'")


@pytest.mark.end_to_end
def test_the_package_loads_no_ray(commands: Processes) -> None:
    """Nor does anything that a run imports."""
    done = commands.python("import sys, ipo_dspy.distributed.ray_scorer; sys.exit('ray' in sys.modules)")
    assert (done.code, done.err) == (0, "")
