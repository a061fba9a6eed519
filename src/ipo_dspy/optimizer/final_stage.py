"""The end of a search: select a template, remove useless phrases, build an ensemble, record the outcome.

The rule is in `template_choice`. Templates made here are scored and recorded like other trials, in the stage
`refine`; a resumed run makes them again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipo_dspy.history import Trial
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.ensemble import POOL, Ensemble, grow_ensemble
from ipo_dspy.optimizer.template_choice import Candidates, Selection, build_choice, compared_trials
from ipo_dspy.run.events import FinalistFields, SelectedEvent
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.state import SearchState
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.multi_encoder import MultiEncoderScorer
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template
from ipo_dspy.template_phrases import shorter_texts

if TYPE_CHECKING:
    from ipo_dspy.clip.template_tokens import TemplateTokens
    from ipo_dspy.scoring.scorers import Scorer

    Checked = tuple[Template, TemplateTokens]

FINALISTS = 10
SHOWN_TIED = 5
SHOWN_CANDIDATES = 30
COMPARED, COMPARED_ON_MANY_IMAGES = 200, 100
"""Maximum number of trials that are compared in pairs, the best by training images."""
MANY_LOGITS = 20_000_000
"""Images times classes from which on fewer trials are compared, and no ensemble is built unless one is asked for."""
SUGGESTED_LINES = 4
"""Lines of the ensemble that a result with a single line is compared with."""


@dataclass(frozen=True, slots=True)
class Finalist:
    """One of the best trials; `validation` is its score on the validation images, if there are any."""

    trial: Trial
    validation: Score | None = None

    @property
    def deciding(self) -> Score:
        """The score on the set that decides."""
        return self.validation or self.trial.score

    @property
    def rank(self) -> tuple[float, float, float, int, int]:
        """Sort key as in `Trial.rank`, by the deciding score."""
        return (*self.deciding.rank, self.trial.tokens, self.trial.index)

    @property
    def fields(self) -> FinalistFields:
        """Plain values for the journal."""
        return {
            "index": self.trial.index,
            "template": str(self.trial.template),
            "train": self.trial.score.fields,
            "validation": None if self.validation is None else self.validation.fields,
        }


class FinalChoice:
    """Selects among the trials of a search.

    Args:
        scorer: scores templates on the training images.
        config: configuration of the search.
        recorder: records the outcome.
        state: the trials so far.
        score: scores checked templates and records them as trials in the stage `refine`.
        start: trial of the start template.
        validator: scores templates on the validation images, which then decide.
    """

    def __init__(
        self,
        scorer: "Scorer",
        config: OptimizerConfig,
        recorder: EventRecorder,
        state: SearchState,
        *,
        score: Callable[[Sequence["Checked"]], None],
        start: Trial,
        validator: "Scorer | None",
    ) -> None:
        self.scorer, self.config, self.recorder, self.state = scorer, config, recorder, state
        self.score, self.start, self.validator = score, start, validator
        self.decider = validator or scorer
        self._shorter: set[str] = set()
        """Token keys of what selected templates read without a phrase; they are always compared."""
        images = state.setup["validation_images" if validator else "images"]
        self.has_many_images = images * len(state.setup["classes"]) > MANY_LOGITS

    def select(self) -> Selection:
        """Compare the best trials in pairs on the images that decide, and select one of them."""
        limit = COMPARED_ON_MANY_IMAGES if self.has_many_images else COMPARED
        trials = compared_trials(self.state.history, self.start, limit, also=self._shorter)
        comparison = Comparison(self.decider.tally_pairs([trial.template for trial in trials]), seed=self.config.seed)
        rule = build_choice(self.config.choose, self.config.tolerance)
        return Candidates.of(trials, comparison, self.start).select(rule)

    def refine(self, selection: Selection, reworded: Sequence["Checked"] = ()) -> Selection:
        """Select again with rewordings, and without phrases of the selected template as long as what is left wins."""
        variants = {checked.key: (template, checked) for template, checked in reworded}
        while variants := variants | self._new_shorter(selection.trial.template):
            self.score([variant for key, variant in variants.items() if key not in self.state.history])
            selection, variants = self.select(), {}
        return selection

    def _new_shorter(self, template: Template) -> dict[str, "Checked"]:
        """Return the template without each of its phrases, by token key, as far as these were not compared yet."""
        texts = shorter_texts(template.lines[0]) if len(template.lines) == 1 else ()
        shorter = [(one, self.scorer.check(one)) for one in map(Template.parse, texts)]
        new = {checked.key: (one, checked) for one, checked in shorter if checked.key not in self._shorter}
        self._shorter |= new.keys()
        return new

    def record(self, selection: Selection) -> dict[str, Any]:
        """Record the selected template with what is known about it, and return the same for the result."""
        candidates = [
            Finalist(trial, None if self.validator is None else score)
            for trial, score in zip(selection.candidates.trials, selection.candidates.scores, strict=True)
        ]
        winner, baseline = candidates[selection.winner], candidates[selection.candidates.start]
        ranked = sorted(candidates, key=lambda finalist: finalist.rank)
        choice, ensemble = selection.report(self.config.goal.name), self._grow(selection, ranked)
        if self.config.ensemble > 1 and ensemble is not None and ensemble.added:
            whole = self._finalist(ensemble.template)
            meets_floors = whole.deciding.missed <= winner.deciding.missed
            if whole.deciding.rank <= baseline.deciding.rank and meets_floors:
                winner, choice = whole, choice.of_ensemble(whole.deciding.goal)
        finalists = tuple({f.trial.key: f for f in (winner, *ranked[:FINALISTS], baseline)}.values())
        encoders = self._score_each([finalist.trial.template for finalist in finalists])
        tied, phrases = tuple(candidates[k] for k in selection.tied[:SHOWN_TIED]), selection.phrase_worths()
        self.recorder.record(
            SelectedEvent(
                event="selected",
                predictor=self.state.predictor,
                index=winner.trial.index,
                template=str(winner.trial.template),
                selected_on="train" if self.validator is None else "validation",
                finalists=[finalist.fields for finalist in finalists],
                choice=choice.fields,
                tied=[finalist.fields for finalist in tied],
                candidates=selection.candidate_fields(SHOWN_CANDIDATES),
                phrases=[worth.fields for worth in phrases],
                ensemble=[line.fields for line in ensemble.added] if ensemble else [],
                encoders=[{"model": m, "scores": [score.fields for score in scores]} for m, scores in encoders.items()],
            )
        )
        return {
            "finalists": finalists,
            "choice": choice,
            "tied": tied,
            "phrases": phrases,
            "ensemble": ensemble and ensemble.added,
            "encoders": encoders,
        }

    def _grow(self, selection: Selection, ranked: Sequence[Finalist]) -> Ensemble | None:
        """Build an ensemble around the selected template; with `ensemble=1`, only to report what it would add.

        Return None with `ensemble=1` on many images, where this is not worth the time.
        """
        if self.config.ensemble == 1 and self.has_many_images:
            return None
        pool = [f.trial.template for f in ranked[:POOL] if len(f.trial.template.lines) == 1]
        size = self.config.ensemble if self.config.ensemble > 1 else SUGGESTED_LINES
        return grow_ensemble(self.decider, selection.trial.template, pool, size=size, tolerance=self.config.tolerance)

    def _score_each(self, templates: Sequence[Template]) -> Mapping[str, tuple[Score, ...]]:
        """Return the scores under each model; empty if there is one."""
        if not isinstance(self.decider, MultiEncoderScorer):
            return {}
        return {name: tuple(scores) for name, scores in self.decider.score_each(templates).items()}

    def _finalist(self, template: Template) -> Finalist:
        """Return an ensemble as a trial."""
        checked = self.scorer.check(template)
        if checked.key not in self.state.history:
            self.score([(template, checked)])
        trial = next(trial for trial in self.state.history if trial.key == checked.key)
        return Finalist(trial, None if self.validator is None else self.validator.score([template])[0])
