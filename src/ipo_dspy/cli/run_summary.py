"""Summary of a run for `demo` and `optimize`: what was found, as sentences and as JSON."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ipo_dspy.cli.final_test import FinalScores
from ipo_dspy.run import choice_sentences

if TYPE_CHECKING:
    from ipo_dspy.optimizer.results import DetailedResults

PLAINEST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run: the record of its search, and the scores of templates on each set of images."""

    details: "DetailedResults"
    final: FinalScores
    left_out: int
    """Number of unreadable images."""
    folder: str
    report: str
    was_finished: bool
    """True if nothing was searched because the run was already finished."""

    @property
    def findings(self) -> dict[str, str]:
        """Sentences about the best template on new images, by label."""
        search, final, imagenet = self.details.searches[0], self.final, self.final.imagenet
        choice, objective = search.choice.fields, search.choice.objective
        prompts = 0 if imagenet is None else len(imagenet.ensemble.lines)
        combined = f"; combined over {len(search.encoders)} models" if search.encoders else ""
        plainest = choice_sentences.plainest(
            [str(finalist.trial.template) for finalist in search.tied[:PLAINEST_SHOWN]]
        )
        expected = choice_sentences.expectation(choice, search.decided_by)
        has_new_words = search.class_texts is not None and search.class_texts.changes
        tied = choice_sentences.ties(choice) + (f"; the plainest: {plainest}" if choice["tied"] > 1 else "")
        found = {
            "template alone" if has_new_words else "expected": expected + combined,
            "against start": choice_sentences.against_start(choice, is_start=search.best == search.baseline),
            "tied": tied if choice["compared"] > 1 else None,
            "floors": final.floors,
        }
        if imagenet is not None:
            found["against the 80" + ", template alone" * bool(has_new_words)] = choice_sentences.against_imagenet(
                imagenet.gain,
                imagenet.gain_error,
                images=choice["images"],
                prompts=prompts,
                is_best=imagenet.best == search.best.template,
                objective=objective,
                template=str(imagenet.best),
            )
        if final.test_gains:
            found["on test images"] = choice_sentences.on_test(final.test_gains, prompts=prompts, objective=objective)
        if search.ensemble is not None:
            lines, is_ensemble = [line.fields for line in search.ensemble], len(search.best.template.lines) > 1
            found["ensemble"] = choice_sentences.added_lines(lines, is_ensemble=is_ensemble, objective=objective)
        if search.class_texts is not None:
            found["words"] = choice_sentences.words(search.class_texts.fields)
            found["novel classes"] = choice_sentences.NOVEL_WORDS if "test novel" in final.scores else None
        found["few images"] = choice_sentences.limits(choice)
        return {label: text for label, text in found.items() if text is not None}

    @property
    def rejected(self) -> int:
        """Number of rejected templates."""
        return sum(self.details.rejections.values())

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        details, spent, search = self.details, self.details.spent, self.details.searches[0]
        final, imagenet = self.final, self.final.imagenet
        return {
            "start": str(details.baseline.template),
            "best": str(details.best.template),
            "images": final.images,
            "left_out": self.left_out,
            "folder": self.folder,
            "report": self.report,
            "trials": len(details.trials),
            "rejected": self.rejected,
            "status": details.status,
            **{name: getattr(spent, name) for name in ("calls", "tokens", "prompt_tokens", "completion_tokens")},
            "cost": None if spent.unpriced else spent.cost,
            "estimated": bool(spent.estimated),
            "seconds": round(spent.seconds, 3),
            "scores": {name: {role: s.fields for role, s in scores.items()} for name, scores in final.scores.items()},
            "intervals": {name: asdict(interval) for name, interval in final.intervals.items()},
            "test_gains": {
                name: {role: {"gain": gain, "gain_error": error} for role, (gain, error) in gains.items()}
                for name, gains in final.test_gains.items()
            },
            "choice": {**search.choice.fields, "beats_start": search.choice.beats_start},
            "findings": self.findings,
            "tied": [finalist.fields for finalist in search.tied],
            "phrases": [worth.fields for worth in search.phrases],
            "encoders": [
                {"model": model, "template": str(f.trial.template), **score.fields}
                for model, scores in search.encoders.items()
                for f, score in zip(search.finalists, scores, strict=True)
            ],
            "ensemble": search.ensemble and [line.fields for line in search.ensemble],
            "class_texts": search.class_texts and search.class_texts.fields,
            "harmonic_mean": final.harmonic,
            "imagenet": imagenet
            and {
                "best": str(imagenet.best),
                "prompts": len(imagenet.ensemble.lines),
                **{name: getattr(imagenet, name) for name in ("gain", "gain_error", "beats_best")},
            },
        }
