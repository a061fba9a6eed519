"""Proposals by a language model: one request a step asks for all templates, a second one fills what is missing."""

import logging
import zlib

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError
from dspy.utils.usage_tracker import track_usage

from ipo_dspy.history import Trial
from ipo_dspy.lms.faults import brief
from ipo_dspy.lms.usage import total_tokens
from ipo_dspy.proposers.base import Ask, ProposalError, Proposals
from ipo_dspy.signatures import PaperAdapter, ProposePrompts, ScoredPrompt

logger = logging.getLogger(__name__)

MAX_REQUESTS = 2
"""Requests a step: models that answer one at a time get a second chance, not eight."""

DESCRIPTION_CHARACTERS = 8000
"""About 2,000 tokens of descriptions; the paper's requests hold about 5,000 tokens in all."""


class LMProposer:
    """Asks a language model for templates in the form of the IPO paper.

    Args:
        lm: the model; `None` takes `dspy.settings.lm` when it is asked.
        adapter: how the question is written; the paper's form by default.

    Draws differ by a `rollout_id` made of seed, step and slot: DSPy's cache makes a repeated run free.
    """

    def __init__(self, lm: dspy.BaseLM | None = None, *, adapter: dspy.Adapter | None = None) -> None:
        self.lm = lm
        self.adapter = adapter or PaperAdapter()
        self._predict = dspy.Predict(ProposePrompts)

    def propose(self, ask: Ask) -> Proposals:
        """Up to `ask.count` texts.

        Raises:
            ProposalError: the model could not be reached, or nothing in its answers could be read.
        """
        texts: list[str] = []
        problem: Exception | None = None
        with track_usage() as usage:
            calls = 0
            while len(texts) < ask.count and calls < MAX_REQUESTS:
                try:
                    texts += self._request(ask, ask.count - len(texts), slot=calls)
                except (LMError, AdapterParseError, OSError) as error:
                    problem = error
                    logger.debug("step %d, request %d failed: %s", ask.step, calls, self._brief(error))
                    break
                finally:
                    calls += 1
        tokens = total_tokens(usage)
        if not texts and problem is not None:
            # Not `from problem`: a traceback would print what `brief` took out.
            raise ProposalError(
                f"the language model gave no proposals: {self._brief(problem)}", calls=calls, tokens=tokens
            ) from None
        return Proposals(tuple(texts[: ask.count]), calls=calls, tokens=tokens)

    def _brief(self, error: Exception) -> str:
        return brief(error, self.lm or dspy.settings.lm)

    def _request(self, ask: Ask, count: int, *, slot: int) -> list[str]:
        config = {"rollout_id": zlib.crc32(f"{ask.seed}/{ask.step}/{slot}".encode())}
        with dspy.context(lm=self.lm or dspy.settings.lm, adapter=self.adapter, trace=None):
            answer = self._predict(
                task=ask.task,
                descriptions=fit(ask.descriptions, DESCRIPTION_CHARACTERS),
                history=[_scored(trial) for trial in ask.shown],
                rejected=list(ask.rejected),
                count=count,
                config=config,
            )
        return [str(text) for text in answer.templates or () if text]


def fit(texts: tuple[str, ...], characters: int) -> list[str]:
    """As many texts as fit, taken evenly over the list, in order.

    >>> fit(("aa", "bb", "cc", "dd"), 4)
    ['aa', 'cc']
    """
    keep = len(texts)
    while keep and sum(map(len, chosen := _evenly(texts, keep))) > characters:
        keep -= 1
    return chosen if keep else []


def _evenly(texts: tuple[str, ...], keep: int) -> list[str]:
    return [texts[i * len(texts) // keep] for i in range(keep)]


def _scored(trial: Trial) -> ScoredPrompt:
    return ScoredPrompt(template=str(trial.template), loss=trial.score.loss, accuracy=trial.score.accuracy)
