"""The state of a run as JSON for its page: plain text and numbers, nothing that is markup."""

import secrets
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from ipo_dspy._internal.counts import shorten
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.errors import InputError, JournalError
from ipo_dspy.history import Trial
from ipo_dspy.report.about import data_name
from ipo_dspy.report.choice import outcome
from ipo_dspy.report.run_watcher import RunWatcher, spending, status
from ipo_dspy.report.summary import headline, score_rows
from ipo_dspy.run.budget import Budget
from ipo_dspy.run.state import RunState, SearchState
from ipo_dspy.scoring.objectives import ObjectiveText

RECENT = 8
"""Trials and rejections that are listed."""
LONGEST = 2000
"""Characters of a text that are shown; a template has at most a few hundred."""
_BUDGET = [limit.name for limit in fields(Budget)]
_LIMITS = {"max_lm_calls": "LLM calls", "max_tokens": "Tokens", "max_cost": "USD"}


class RunJSON:
    """Reads the journal of a run whenever the page asks; call it from one thread at a time."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._start()

    def _start(self) -> None:
        self.watched, self._name = RunWatcher(self._run), secrets.token_hex(4)

    def look(self, seen: str) -> dict[str, Any]:
        """Return the state, without the searches if the page has `seen` their version.

        Raises:
            JournalError: the journal is damaged; the next look reads it from the start.
        """
        try:
            self.watched.look()
            return self._state(seen)
        except JournalError:
            self._start()
            raise
        except InputError as error:  # of a setting in the journal
            raise JournalError(f"the settings of the journal cannot be used: {error}") from error

    def _state(self, seen: str) -> dict[str, Any]:
        state, held, seconds = self.watched.state, self.watched.held, self.watched.seconds
        version = f"{self._name}.{self.watched.changes}"
        ended = state.status is not None
        values = {
            "version": version,
            "folder": printable(str(self.watched.folder)),
            "data": data_name(state),
            "phase": "waiting" if not state.begun else "over" if ended else "killed" if held is False else "running",
            "status": printable(status(state, held=held, folder=self.watched.folder)),
            "seconds": seconds,
            "left": None if ended or held is False else seconds_left(state, seconds),
            "pending": [str(request) for request in state.pending[:1] if held is not False],
            "spending": spending(state.usage) if state.usage.calls else "",
            "max_seconds": _budget(state).max_seconds,
            "limits": _limits(state),
        }
        return (
            values if seen == version else {**values, "searches": [_search(s, state) for s in state.searches.values()]}
        )


def seconds_left(state: RunState, seconds: float) -> float | None:
    """Return the time that the remaining steps take at the pace so far; None before the first step ends.

    Steps are those of all classifiers. The end may come earlier, through `patience` or a limit of cost.
    """
    planned, starts = state.settings.get("steps"), state.settings.get("start")
    searches = state.searches.values()
    done = sum(search.steps for search in searches)
    if not done or not isinstance(planned, int):
        return None
    later = max(0, (len(starts) if isinstance(starts, dict) else 1) - len(searches))
    steps = planned * later + sum(max(0, planned - each.steps) for each in searches if each.selected is None)
    left = steps * sum(search.step_seconds for search in searches) / done
    allowed = _budget(state).max_seconds
    return left if allowed is None else min(left, max(0.0, allowed - seconds))


def _budget(state: RunState) -> Budget:
    return Budget(**{name: state.settings.get(name) for name in _BUDGET})


def _limits(state: RunState) -> list[dict[str, Any]]:
    """Return the limits of requests to language models that are set, and what is spent of them."""
    budget = _budget(state)
    return [
        {"name": _LIMITS[name], "text": f"{amount:,.10g} of {limit:,.10g}", "share": amount / limit}
        for name, amount in budget.spent_of(state.usage).items()
        if name in _LIMITS and (limit := getattr(budget, name))
    ]


def _search(search: SearchState, state: RunState) -> dict[str, Any]:
    trials = tuple(search.history)
    repeats = Counter((one.text, one.reason) for one in search.rejections)
    latest = {(one.text, one.reason): i for i, one in enumerate(search.rejections)}
    reasons = Counter(rejection.reason for rejection in search.rejections).most_common()
    values: dict[str, Any] = {
        "name": "" if search.predictor == "self" else search.predictor,
        "step": search.steps,
        "steps": state.settings.get("steps"),
        "classes": len(search.setup["classes"]),
        "images": search.setup["images"],
        "described": len(search.descriptions),
        "tried": len(trials),
        "chosen": search.selected is not None,
        "rejected": [{"reason": reason, "count": count} for reason, count in reasons],
        "rejections": [
            {
                "step": one.step,
                "text": _shown(one.text),
                "reason": one.reason,
                "message": _shown(one.message),
                "count": repeats[one.text, one.reason],
            }
            for one in (search.rejections[i] for i in sorted(latest.values(), reverse=True)[:RECENT])
        ],
        "result": _result(search),
        "outcome": [_shown(sentence) for sentence in outcome(search)],
        "errors": len(search.errors),
        "error": _shown(search.errors[-1]["message"]) if search.errors else "",
    }
    if search.start is None or search.best is None:
        return values
    from ipo_dspy.report.inline_charts import measures  # loads matplotlib

    better = {trial.index for trial in search.better}
    shown = measures(ObjectiveText.of(search.objective))

    def row(trial: Trial) -> dict[str, Any]:
        figures = [measure.show(measure.of(trial)) for measure in shown]
        text = {"template": _shown(str(trial.template)), "better": trial.index in better}
        return {"index": trial.index, "step": trial.step, "figures": figures, **text}

    return values | {
        "start": row(search.start),
        "best": row(search.best) | {"template": _shown(search.best_text)},
        "recent": [row(trial) for trial in reversed(trials[-RECENT:])],
        "measures": [
            {"name": measure.name, "higher": measure.higher_is_better, "digits": measure.digits, "unit": measure.unit}
            for measure in shown
        ],
        "trials": [trial.index for trial in trials],
        "improvements": [trial.index for trial in search.better],
        "values": [[round(measure.of(trial), 4) for trial in trials] for measure in shown],
    }


def _result(search: SearchState) -> dict[str, Any] | None:
    """Return the accuracies on test images, once they are evaluated."""
    row = headline(score_rows(search))
    if row is None or not row.is_test:
        return None
    interval = f"95 % interval {row.interval}" if row.interval else ""
    return {
        "name": row.name,
        "start": f"{row.start:.1f}\u00a0%",
        "best": f"{row.best:.1f}\u00a0%",
        "interval": interval,
    }


def _shown(text: str) -> str:
    return shorten(text, LONGEST)
