"""`RayScorer`: encode images and score templates on a Ray cluster, with the results of a single machine.

The driver encodes texts once for all workers: features of eight templates with a thousand classes take 16 MB. Workers
hold the image features and return one tally per template. They also read the images, so paths must be the same on all
nodes.
"""

import functools
import hashlib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy.clip.image_features import refusal
from ipo_dspy.clip.template_tokens import ClassTexts, TemplateTokens, template_tokens
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.distributed.cluster import NO_FOLDERS, ClusterUser
from ipo_dspy.distributed.discovery import discover_partitions
from ipo_dspy.distributed.model_ref import ModelRef
from ipo_dspy.distributed.partitions import Listed, Partition, in_memory_partitions, part_size
from ipo_dspy.distributed.pool import ImageSetHandle, WorkerPool
from ipo_dspy.distributed.worker import EncodeJob, PartitionReport
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.scoring.class_objectives import ClassObjective
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.objectives import DEFAULT, Objective
from ipo_dspy.scoring.score import Score
from ipo_dspy.scoring.scorers import EncodedSet, RemoteImageSet
from ipo_dspy.scoring.tally import Tally
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone

Progress = Callable[[int, int], None] | None
"""Called with the number of images done and the total."""


class RayScorer(ClusterUser):
    """Encodes images and scores templates on a Ray cluster: ``IPO(backend=RayScorer("auto"))``.

    Trials are the same as on a single machine. Losses agree to about 1e-6 nats, because the last bits depend on CPUs,
    threads and batches; rankings use four decimals (`Score.rank`).

    Args:
        address: `auto` for the cluster that this machine belongs to, `local` for one on this machine that ends with the
            process, or `host:port`.
        num_workers: maximum number of workers; by default as many as fit on the cluster.
        cpus_per_worker: CPUs and threads per worker.
        gpus_per_worker: GPUs per worker, for encoding; reserved until `close`.
        store: folder, shared by all nodes, that keeps image features between runs; without it they stay in the memory
            of the workers and are lost when the run ends.
        images: a folder, a table or shards to score candidates on instead of the training set; see
            `discover_partitions`. The training set is then a small sample, used for descriptions and for the final
            comparison.
        image: column of the images of parquet files in `images`.
        label: column of their labels.

    Raises:
        InputError: a number is below 1, or the address is invalid.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        num_workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
        store: str | os.PathLike[str] | None = None,
        images: str | os.PathLike[str] | None = None,
        image: str = "auto",
        label: str = "auto",
    ) -> None:
        super().__init__(
            address, num_workers=num_workers, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker
        )
        self.store = None if store is None else Path(store).expanduser().absolute()
        self.images, self.columns = images, {"image": image, "label": label}
        self._pool: WorkerPool | None = None

    def check(self, backbone: "Backbone", folders: Mapping[str, str] = NO_FOLDERS) -> None:
        """Check the nodes (see `ClusterUser.check`), the store and the images."""
        super().check(backbone, folders)
        self._make_store()
        if self.images is not None:
            discover_partitions(self.images, **self.columns)

    def hold(
        self,
        backbone: "Backbone",
        images: Sequence[Any],
        labels: Sequence[str],
        classes: Sequence[str],
        *,
        texts: ClassTexts | None = None,
        choices: Sequence[tuple[str, ...]] | None = None,
        skip_unreadable: bool = False,
        allow_url: bool = False,
        progress: Progress = None,
        objective: Objective = DEFAULT,
    ) -> EncodedSet:
        """Encode images on the workers; see `ScoringBackend`."""
        if not images:
            raise DataError("no images to encode; pass at least one")
        size = part_size(len(images), self._joined().worker_count(self.size, len(images)))
        parts = in_memory_partitions(images, labels, choices, size=size)
        job = self._job(backbone, classes, allow_url=allow_url)
        scorer, reports = self._encode(backbone, job, texts, parts, progress, skip_unreadable, objective)
        pairs = list(zip(parts, reports, strict=True))
        kept = tuple(part.first + i for part, report in pairs for i in report.kept)
        skipped = tuple((part.first + i, message) for part, report in pairs for i, message in report.skipped)
        if not kept:
            raise DataError(f"none of {len(images)} images can be read; the first: {skipped[0][1]}")
        return EncodedSet(scorer, kept, tuple(key for report in reports for key in report.keys), skipped)

    def wide(
        self,
        backbone: "Backbone",
        classes: Sequence[str] | None,
        *,
        texts: ClassTexts | None = None,
        skip_unreadable: bool = False,
        progress: Progress = None,
        objective: Objective = DEFAULT,
    ) -> RemoteImageSet | None:
        """Return a scorer over `images`, which the driver never lists; None without `images`."""
        if self.images is None:
            return None
        if classes is None:
            raise InputError(
                "RayScorer(images=...) requires one list of class names, but the program has one per image; "
                "pass ClipClassifier(classes=[...])"
            )
        parts, job = discover_partitions(self.images, **self.columns), self._job(backbone, classes)
        scorer, reports = self._encode(backbone, job, texts, parts, progress, skip_unreadable, objective)
        skipped = tuple(message for report in reports for _, message in report.skipped)
        count = sum(len(report.kept) for report in reports)
        if not count:
            raise DataError(f"none of {len(skipped)} images to score on can be read; the first: {skipped[0]}")
        # Labels of other partitions are part of their keys.
        labels = [label for part in parts if isinstance(part, Listed) for label in part.labels]
        marks = [*classes, *labels, *(key for report in reports for key in report.keys)]
        return RemoteImageSet(scorer, count, hashlib.sha256("\n".join(marks).encode()).hexdigest(), skipped)

    def close(self) -> None:
        """Stop the workers; the cluster keeps running."""
        if self._pool is not None:
            self._pool.release()

    def _encode(
        self,
        backbone: "Backbone",
        job: EncodeJob,
        texts: ClassTexts | None,
        parts: Sequence[Partition],
        progress: Progress,
        skip: bool,
        objective: Objective,
    ) -> tuple["ShardScorer", list[PartitionReport]]:
        """Encode partitions and return a scorer over them and a report of each."""
        if self._pool is None or not self._pool.cluster.is_joined:
            self._pool = WorkerPool(self._joined(), self.size)
        sizes = [1 if part.count is None else part.count for part in parts]  # a shard counts as one
        done = 0

        def report_progress(index: int) -> None:
            nonlocal done
            done = min(done + sizes[index], sum(sizes))
            if progress is not None:
                progress(done, sum(sizes))

        images, reports = self._pool.encode(job, parts, report_progress)
        pairs = zip(parts, reports, strict=True)
        bad = [(part, index, message) for part, report in pairs for index, message in report.skipped]
        if bad and not skip:
            part, index, _ = bad[0]
            place = part.place(index) if isinstance(part, Listed) else ""  # other messages already name the place
            total = sum(len(report.kept) for report in reports) + len(bad)
            raise refusal([message for *_, message in bad], total, place)
        return ShardScorer(backbone, job.classes, texts or job.classes, self._pool, images, objective), reports

    def _job(self, backbone: "Backbone", classes: Sequence[str], *, allow_url: bool = False) -> EncodeJob:
        self._make_store()
        store = None if self.store is None else str(self.store)
        return EncodeJob(ModelRef.of(backbone), tuple(classes), allow_url, self.size.cpus, store)

    def _make_store(self) -> None:
        try:
            if self.store is not None:
                self.store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"store={str(self.store)!r} cannot be created ({error.strerror}); use a folder that all nodes share"
            ) from error


class ShardScorer:
    """Scores templates on the images that workers hold; see `scorers.ImageScorer`."""

    def __init__(
        self,
        backbone: "Backbone",
        classes: Sequence[str],
        texts: ClassTexts,
        pool: WorkerPool,
        images: ImageSetHandle,
        objective: Objective = DEFAULT,
    ) -> None:
        self.backbone, self.classes, self.texts = backbone, tuple(classes), tuple(texts)
        self._objective = ClassObjective.of(objective, self.classes)
        self._pool, self._images = pool, images

    def check(self, template: Template) -> TemplateTokens:
        """Return token key and length; raise TemplateError if the context is too short."""
        return template_tokens(self.backbone, template, self.texts)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Return the score of each template over all images."""
        tallies = self.tally(templates, by_class=self._objective.needs_classes)
        return [self._objective.score(tally) for tally in tallies]

    def tally(self, templates: Sequence[Template], *, by_class: bool = False) -> list[Tally]:
        """Return the tally of each template over all images, with counts by class if they are asked for."""
        pairs = self._objective.pairs if by_class else None
        answers = self._ask("tally", class_features(self.backbone, templates, self.texts), pairs)  # [T, C, D]
        return [functools.reduce(operator.add, of_template) for of_template in zip(*answers, strict=True)]

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        """Return the sums and products of the outcomes of templates over all images."""
        objective = self._objective
        tallies = [] if objective.is_default else self.tally(templates, by_class=objective.needs_classes)
        outcomes, scores = objective.outcomes(tallies), tuple(map(objective.score, tallies))
        text = class_features(self.backbone, templates, self.texts)
        answers: list[PairTally] = self._ask("tally_pairs", text, outcomes)
        return replace(functools.reduce(operator.add, answers), unit=objective.unit, scores=scores)

    def predict(self, template: Template) -> list[str]:
        """Return the predicted class of each image."""
        answers = self._ask("predict", class_features(self.backbone, [template], self.texts)[0])  # [C, D]
        by_partition = {index: indices for answer in answers for index, indices in answer.items()}
        return [self.classes[i] for index in sorted(by_partition) for i in by_partition[index]]

    def _ask(self, method: str, text: "Tensor", *more: Any) -> list[Any]:
        """Return the answers of all workers; the text features are sent once."""
        sent = self._pool.cluster.ray.put(text.cpu().numpy())
        return self._pool.ask(method, self._images, sent, self.backbone.logit_scale, self.backbone.logit_bias, *more)
