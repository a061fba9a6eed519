"""`RayScorer`: images encoded and templates scored by the workers of a Ray cluster, with the results of one machine.

Texts are encoded here, once for all workers: features of eight templates with a thousand classes are 16 MB. Workers
hold the images' features and send back one tally for each template. Images are read where the workers are, so paths
must be the same on all nodes.
"""

import functools
import hashlib
import operator
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy.clip.feature_dtype import resting_dtype
from ipo_dspy.clip.image_features import refusal
from ipo_dspy.clip.text_features import TemplateTokens, class_features, template_tokens
from ipo_dspy.distributed.cluster import Cluster, check_address
from ipo_dspy.distributed.discovery import parts_of
from ipo_dspy.distributed.messages import Job, Told
from ipo_dspy.distributed.model_ref import Known, files_of
from ipo_dspy.distributed.partitions import Listed, Part, listed, part_size
from ipo_dspy.distributed.pool import Images, Pool
from ipo_dspy.distributed.ray_encoding import Size, encode
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.scoring.metrics import Tally
from ipo_dspy.scoring.score import Score
from ipo_dspy.scoring.scorers import Held, Wide
from ipo_dspy.template import Template
from ipo_dspy.validation import whole

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone


class RayScorer:
    """Encodes images and scores templates on a Ray cluster: ``IPO(scorer=RayScorer("auto"))``.

    Trials are those of one machine. Losses agree to about 1e-6 nats, since other processors, threads and batches have
    other last bits, and a ranking goes by four decimals (`history.Score.rank`).

    Args:
        address: `auto` for the cluster that this machine is a node of, `local` for one on this machine that ends with
            the process, or `host:port`.
        num_workers: at most; by default as many as the cluster has room for.
        cpus_per_worker: of each; a worker uses so many threads.
        gpus_per_worker: for encoding.
        store: folder, seen by all nodes, that keeps image features between runs; without it they live in the memory of
            the cluster and end with the run.
        images: a folder, a table or shards to score candidates on instead of the training set: see `parts_of`. The
            training set is then a few images, which are described and compared at the end.
        image, label: columns of parquet files in `images`.

    Raises:
        InputError: a number below 1, or an address of no kind.
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
        check_address(address)
        self.address = address
        self.size = Size(
            None if num_workers is None else whole("num_workers", num_workers, 1),
            whole("cpus_per_worker", cpus_per_worker, 1),
            gpus_per_worker,
        )
        self.store = None if store is None else Path(store).expanduser().absolute()
        self.images, self.columns = images, {"image": image, "label": label}
        self._pool: Pool | None = None

    def check(self, backbone: "Backbone") -> None:
        """Join the cluster and see that its nodes have room, this package and the files of the model.

        Raises:
            InputError: they have not, or nobody answers.
            ClusterError: there is no room for one worker.
        """
        cluster = self._joined().cluster
        nodes = dict.fromkeys(cluster.seats(self.size.cpus, self.size.gpus))
        cluster.check(list(nodes), backbone.name, files_of(backbone))
        if self.store is not None:
            _make(self.store)
        if self.images is not None:
            parts_of(self.images, **self.columns)

    def hold(
        self,
        backbone: "Backbone",
        images: Sequence[Any],
        labels: Sequence[str],
        classes: Sequence[str],
        *,
        choices: Sequence[tuple[str, ...]] | None = None,
        skip_bad: bool = False,
        allow_url: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Held:
        """Encode images on the workers; see `scorers.Place`."""
        if not images:
            raise DataError("no images to encode; pass at least one")
        pool = self._joined()
        size = part_size(len(images), self.size.fitting(pool.cluster, len(images)))
        parts = listed(images, labels, choices, size=size)
        job = self._job(backbone, classes, allow_url=allow_url)
        told, number = self._encode(pool, job, parts, progress, skip_bad=skip_bad)
        kept = tuple(part.first + i for part, one in zip(parts, told, strict=True) for i in one.kept)
        skipped = tuple(
            (part.first + i, text) for part, one in zip(parts, told, strict=True) for i, text in one.skipped
        )
        if not kept:
            raise DataError(f"none of {len(images)} images can be read; the first: {skipped[0][1]}")
        scorer = ShardScorer(backbone, classes, pool, number)
        return Held(scorer, kept, tuple(key for one in told for key in one.keys), skipped)

    def wide(
        self,
        backbone: "Backbone",
        classes: Sequence[str] | None,
        *,
        skip_bad: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Wide | None:
        """A scorer over `images`, of which no list is ever made here."""
        if self.images is None:
            return None
        if classes is None:
            raise InputError(
                "RayScorer(images=...) needs one list of class names, and the program names some for each image; "
                "write ClipClassifier(classes=[...])"
            )
        pool, parts = self._joined(), parts_of(self.images, **self.columns)
        told, number = self._encode(pool, self._job(backbone, classes), parts, progress, skip_bad=skip_bad)
        skipped = tuple(message for one in told for _, message in one.skipped)
        if not any(one.count for one in told):
            raise DataError(f"none of {len(skipped)} images to score on can be read; the first: {skipped[0]}")
        labels = [label for part in parts if isinstance(part, Listed) for label in part.labels]  # others: in their keys
        marks = [*classes, *labels, *(key for one in told for key in one.keys)]
        digest = hashlib.sha256("\n".join(marks).encode()).hexdigest()
        return Wide(ShardScorer(backbone, classes, pool, number), sum(one.count for one in told), digest, skipped)

    def close(self) -> None:
        """Give the workers back; the cluster is left to itself."""
        if self._pool is not None:
            self._pool.release()

    def _joined(self) -> Pool:
        """The workers, after joining the cluster."""
        if self._pool is None or not self._pool.cluster.is_joined:
            self._pool = Pool(Cluster(self.address), self.size)
        return self._pool

    def _encode(
        self,
        pool: Pool,
        job: Job,
        parts: Sequence[Part],
        progress: Callable[[int, int], None] | None,
        *,
        skip_bad: bool,
    ) -> tuple[list[Told], int]:
        """Parts to a set of images in the pool: what is told of each part, and the number of the set.

        Raises:
            ImageError: images that cannot be read, unless `skip_bad`; all of them are told at once.
        """
        counts = [part.count for part in parts]
        done, total = 0, sum(count or 0 for count in counts) if None not in counts else len(parts)

        def tell(told: Told) -> None:
            nonlocal done
            done += 1 if counts[told.part] is None else counts[told.part] or 0
            if progress is not None:
                progress(min(done, total), total)

        found = encode(pool.cluster, job, dict(enumerate(parts)), self.size, tell)
        told = [found[place][0] for place in range(len(parts))]
        if not skip_bad:
            _check_read(parts, told)
        dtype = resting_dtype(sum(one.count for one in told), max(one.width for one in told))
        shards = [found[place][1] for place in range(len(parts))]
        return told, pool.add(Images(job, tuple(parts), shards, dtype))

    def _job(self, backbone: "Backbone", classes: Sequence[str], *, allow_url: bool = False) -> Job:
        if self.store is not None:
            _make(self.store)
        return Job(
            model=Known.of(backbone),
            classes=tuple(classes),
            allow_url=allow_url,
            threads=self.size.cpus,
            store=None if self.store is None else str(self.store),
        )

    def __repr__(self) -> str:
        return f"RayScorer({self.address!r}, num_workers={self.size.workers})"


class ShardScorer:
    """Scores templates over the images that workers hold; see `scorers.ImageScorer`."""

    def __init__(self, backbone: "Backbone", classes: Sequence[str], pool: Pool, number: int) -> None:
        self.backbone, self.classes = backbone, tuple(classes)
        self._pool, self._number = pool, number
        weakref.finalize(self, pool.drop, number).atexit = False

    def check(self, template: Template) -> TemplateTokens:
        """Token key and length; raises TemplateError where the context is too short."""
        return template_tokens(self.backbone, template, self.classes)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Loss and accuracy of each template over all images."""
        return [tally.score for tally in self.tally(templates)]

    def tally(self, templates: Sequence[Template]) -> list[Tally]:
        """What each template comes to on all images."""
        text = class_features(self.backbone, templates, self.classes)  # [T, C, D]
        of_workers = self._ask("tally", text)
        return [functools.reduce(operator.add, tallies) for tallies in zip(*of_workers, strict=True)]

    def predict(self, template: Template) -> list[str]:
        """The class given to each image."""
        text = class_features(self.backbone, [template], self.classes)[0]  # [C, D]
        found = {place: given for of_worker in self._ask("predict", text) for place, given in of_worker.items()}
        return [self.classes[i] for place in sorted(found) for i in found[place].tolist()]

    def _ask(self, method: str, text: "Tensor") -> list[Any]:
        """The answers of the workers that hold some of the images; the features of the texts go out once."""
        sent = self._pool.cluster.ray.put(text.cpu().numpy())
        scale, bias = self.backbone.logit_scale, self.backbone.logit_bias
        return [answer for answer in self._pool.ask(method, self._number, sent, scale, bias) if answer]


def _check_read(parts: Sequence[Part], told: Sequence[Told]) -> None:
    bad = [(part, index, message) for part, one in zip(parts, told, strict=True) for index, message in one.skipped]
    if bad:
        part, index, _ = bad[0]
        place = part.place(index) if isinstance(part, Listed) else ""  # of others the message has it
        raise refusal([message for *_, message in bad], sum(one.count for one in told) + len(bad), place)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"store={str(folder)!r} cannot be made ({error.strerror}); name a folder that all nodes share"
        ) from error
