"""The stages of a run: check, encode, describe, search.

They run in the order of their cost, so that cheap checks fail first.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.lms.preflight import ping_once
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.factories import build_describer
from ipo_dspy.optimizer.results import found_texts
from ipo_dspy.optimizer.search import Search, SearchResult
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.optimizer.search_task import EncodedTask, SearchTask
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.run.events import DescriptionEvent
from ipo_dspy.run.ledger import LMResponse
from ipo_dspy.run.session import Session

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.describers import Descriptions
    from ipo_dspy.optimizer.evaluation import EvaluationSet
    from ipo_dspy.proposers import Proposer
    from ipo_dspy.scoring.scorers import ClipScorer, RemoteImageSet, Scorer


class Pipeline:
    """The stages of one session, over all classifiers of a program.

    Args:
        session: records what is done.
        proposer: proposes templates, and texts of classes.
        config: configuration of the run.
    """

    def __init__(self, session: Session, proposer: "Proposer", config: OptimizerConfig) -> None:
        self.session, self.proposer, self.config = session, proposer, config

    def run(
        self, tasks: Sequence[SearchTask], *, models: Mapping[str, "dspy.BaseLM"], settings: Mapping[str, Any]
    ) -> tuple[list[EncodedTask], tuple[SearchResult, ...]]:
        """Run all tasks through the stages, those without cost first, and return the encoded tasks and the results.

        `settings` are the recorded settings; `models` are the language models of the run, by role.
        """
        from ipo_dspy.clip.machine import machine  # imports torch

        session, config = self.session, self.config
        tasks = [self.validate(task) for task in tasks]
        session.start(
            seed=config.seed,
            settings=settings,
            machine=machine(str(tasks[0].classifier.backbone.device)),
            allow_config_changes=config.allow_config_changes,
        )
        for role, lm in models.items():
            session.check_stop()
            ping_once(session.ledger, lm, role=role, with_image=role == "prompt_model" and config.images_in_request > 0)
        encoded = [self.encode(task) for task in tasks]
        session.check_stop()
        session.start_searches([task.event for task in encoded])
        return encoded, tuple(map(self.search, encoded))

    def validate(self, task: SearchTask) -> SearchTask:
        """Check templates and images before anything is billed or encoded, and add the templates of published lists.

        Raises:
            InputError: a template that does not fit the model, or an image that cannot be read.
            StoppedError: the run was asked to stop.
        """
        from ipo_dspy.clip.image_features import check_images
        from ipo_dspy.clip.template_tokens import template_tokens

        session, config = self.session, self.config
        session.check_stop()
        session.recorder.progress(task.name, "model", 0, 1)
        for encoder in task.by_encoder.values():
            for template in task.initial:
                template_tokens(encoder.backbone, template, task.classifier.texts_of(task.train.classes))
        task = task.with_published(config.template_lists)
        if config.searches_class_texts:
            for texts in task.check_candidates(config.candidates or {}).values():
                template_tokens(task.classifier.backbone, task.initial[0], texts)
        session.recorder.progress(task.name, "model", 1, 1)
        if config.backend is not None:
            config.backend.check(task.classifier.backbone)
            return task  # its workers read the images, which may not exist on this machine
        if not config.skip_unreadable:  # both sets together, to report all unreadable images at once
            check_images(
                [*task.train.images, *(task.validation.images if task.validation else ())],
                backbone=task.classifier.backbone,
                num_threads=config.num_threads,
                progress=lambda _done, _total: session.check_stop(),
            )
        return task

    def encode(self, task: SearchTask) -> EncodedTask:
        """Encode the images, each once.

        Raises:
            ImageError: an image cannot be read (without `skip_unreadable`).
            StoppedError: the run was asked to stop.
        """
        train = self._encode_images(task, task.train, "training images")
        held_out, stage = task.validation, "validation images"
        validation = None if held_out is None else self._encode_images(task, held_out, stage)
        wide = self._encode_remotely(task)
        scorer: Scorer = train.scorer if wide is None else wide.scorer
        validator: Scorer | None = None if validation is None else validation.scorer
        if task.also:
            scorer = self._score_across(task, train, "training images")
            validator = None if validation is None else self._score_across(task, validation, stage)
        across = self.config.across if task.also else None
        return EncodedTask(task, train, validation, scorer, validator, wide, across, self.config.goal)

    def _encode_images(self, task: SearchTask, images: TrainingImages, stage: str) -> "EvaluationSet":
        from ipo_dspy.optimizer.evaluation import build_evaluation_set

        return build_evaluation_set(
            task.classifier,
            images,
            recorder=self.session.recorder,
            predictor=task.name,
            stage=stage,
            num_threads=self.config.num_threads,
            skip_unreadable=self.config.skip_unreadable,
            checked=True,
            where=self.config.backend,
            check=self.session.check_stop,
            objective=self.config.goal,
        )

    def _score_across(self, task: SearchTask, encoded: "EvaluationSet", stage: str) -> "Scorer":
        """Return a scorer of encoded images that encodes them with the other models, too."""
        from ipo_dspy.scoring.multi_encoder import MultiEncoderScorer

        same_images = Pipeline(self.session, self.proposer, replace(self.config, skip_unreadable=False))
        others = [
            same_images._encode_images(
                replace(task, classifier=other), encoded.images, f"{stage}, {other.model_name}"
            ).scorer
            for other in task.also
        ]
        scorers = cast("list[ClipScorer]", [encoded.scorer, *others])
        return MultiEncoderScorer(dict(zip(task.by_encoder, scorers, strict=True)), self.config.across)

    def _encode_remotely(self, task: SearchTask) -> "RemoteImageSet | None":
        from ipo_dspy.optimizer.evaluation import log_skipped

        if self.config.backend is None:
            return None

        def progress(done: int, total: int) -> None:
            self.session.recorder.progress(task.name, "images to score on", done, total)
            self.session.check_stop()

        wide = self.config.backend.wide(
            task.classifier.backbone,
            task.train.classes if task.train.choices is None else None,
            texts=task.classifier.texts_of(task.train.classes),
            skip_unreadable=self.config.skip_unreadable,
            progress=progress,
            objective=self.config.goal,
        )
        log_skipped(self.session.recorder, task.name, "images to score on", wide.skipped if wide else ())
        return wide

    def search(self, encoded: EncodedTask) -> SearchResult:
        """Describe images, search for a template and for words, and record how the start and the best compare."""
        from ipo_dspy.optimizer.class_text_search import ClassTextSearch
        from ipo_dspy.optimizer.evaluation_record import compare
        from ipo_dspy.optimizer.mistakes import Mistakes  # imports torch

        session, config, task = self.session, self.config, encoded.task
        images, classifier = encoded.train.images, task.classifier
        scorer = cast("ClipScorer", encoded.train.scorer)  # any other shows no images
        context = SearchContext(
            proposer=self.proposer,
            config=config,
            ledger=session.ledger,
            predictor=task.name,
            task=task.sentence(config.task_description),
            stop=session.stop,
        )
        mistakes = Mistakes(images, config.images_in_request, allow_url=classifier.allow_url)
        described = self.describe(context, classifier, images)
        engine = Search(
            encoded.scorer,
            context,
            descriptions=[text for text in described.texts if text],
            max_tokens=min(one.backbone.context_length for one in (classifier, *task.also)),
            mistakes=partial(mistakes.of, scorer),
        )
        result = engine.run(task.initial, validator=encoded.validator)
        if config.searches_class_texts and result.status != "interrupted":
            validator = None if encoded.validation is None else encoded.validation.scorer
            words = ClassTextSearch(
                scorer, context, validator=cast("ClipScorer | None", validator), mistakes=mistakes.of
            )
            result = replace(result, class_texts=words.run(result.best.template))
        compare(session.recorder, result, encoded.train, split="train")
        if encoded.validation is not None:
            compare(session.recorder, result, encoded.validation, split="validation")
        return replace(result, texts={**classifier.class_texts, **found_texts([result]).get(task.name, {})})

    def describe(self, context: SearchContext, classifier: "ClipClassifier", train: TrainingImages) -> "Descriptions":
        """Return descriptions of training images, balanced over the classes; without those after a stop.

        Raises:
            LanguageModelError: the key or name of the description model is wrong.
            NoAnswerError: the model cannot be reached, or is not multimodal.
        """
        from ipo_dspy.describers import Descriptions

        session, limit = self.session, self.config.max_described_images
        describer = build_describer(self.config, classifier)
        if describer is None or limit == 0 or not self.config.searches_template or session.stop():
            return Descriptions(())
        chosen = stratified_indices(train.labels, limit)
        context.progress("descriptions", 0, len(chosen))
        names = classifier.spoken_names([train.labels[i] for i in chosen])

        def once(question: str, ask: Callable[[], LMResponse]) -> LMResponse:
            session.check_stop()
            return session.ledger.once("", question, ask)  # two classifiers may be trained on the same images

        described = describer.describe([train.images[i] for i in chosen], names, once=once)
        for message in described.faults:
            context.error(0, f"an image could not be described: {message}")
        known, texts = context.state.descriptions, zip(chosen, described.texts, strict=True)
        fresh = [(train.sources[i], text) for i, text in texts if text and (train.sources[i], text) not in known]
        name, guessed = context.predictor, described.guessed
        session.recorder.record(
            *(
                DescriptionEvent(event="description", predictor=name, source=s, text=t, guessed=guessed)
                for s, t in fresh
            )
        )
        context.progress("descriptions", len(chosen), len(chosen))
        return described


def stratified_indices(labels: Sequence[str], limit: int) -> list[int]:
    """Return indices of at most `limit` images: the first of every class, then the second, and so on.

    If the last of these rounds does not fit as a whole, its classes are evenly spaced.

    >>> stratified_indices(["a", "a", "b", "a"], 3), stratified_indices(["a", "b", "c", "d"], 2)
    ([0, 1, 2], [0, 2])
    """
    counts: Counter[str] = Counter()
    rounds: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        counts[label] += 1
        rounds.setdefault(counts[label], []).append(index)
    chosen: list[int] = []
    for indices in rounds.values():
        chosen += evenly_spaced(indices, limit - len(chosen))
    return sorted(chosen)
