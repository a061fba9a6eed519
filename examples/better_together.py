"""IPO and DSPy's GEPA one after the other in `dspy.BetterTogether`, with no network and no key.

`python examples/better_together.py` uses a stand-in for a language model that writes random captions, so the run shows
only how the optimizers spend their evaluations. With a real one: `--lm openai/gpt-4o-mini` (its key in the
environment). `--progress` shows the progress bars of DSPy and GEPA on stderr, one for each of some hundred evaluations.
"""

import argparse
import contextlib
import io
import json
import logging
import random
import re
import sys
import threading
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from ipo_dspy import IPO, ClipClassifier, TemplateInstructionProposer, demo
from ipo_dspy.bench.dspy_optimizers import EvaluationCounter, accuracy_metric
from ipo_dspy.metrics import feedback
from ipo_dspy.phrase_bank import BANK
from ipo_dspy.template_phrases import tidy

FORMS = (
    "a {adjective} {noun} of a <CLASS>.",
    "a {noun} of a <CLASS> {after}.",
    "a {adjective} <CLASS> {after}.",
    "a {adjective} {noun} of a {second} <CLASS>.",
    "a <CLASS>, {adjective} {noun} {after}.",
)


class PhraseWriter:
    """A DSPy engine that answers every field it is asked for with a caption of random phrases.

    It reads the form of the answer from the question (the field markers of ChatAdapter, the JSON of JSONAdapter, or
    the tags of IPO's own adapter) and nothing else: not the scores, not the examples.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.requests = 0

    def complete(self, request: Request) -> Response:
        """One answer; requests are answered one at a time, so that a seed gives the same answers."""
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        asked = "\n".join(message.text or "" for message in request.messages)
        with self._lock:
            self.requests += 1
            text = self._answer(system, asked)
        usage = Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        return Response(
            id=None, model=request.model, message=Message.assistant(text), finish_reason="stop", usage=usage
        )

    def close(self) -> None:
        """Nothing is held open."""

    def __deepcopy__(self, memo: Any) -> "PhraseWriter":
        """Copies of a program share their engine."""
        return self

    def _answer(self, system: str, asked: str) -> str:
        listed = re.search(r"Your output fields are:\n(.*?)\n(?!\d+\. )", system, re.DOTALL)
        if listed is None:  # IPO's own adapter, which asks for tagged lines
            return "\n".join(f"<INS>{text}</INS>" for text in self._several(asked))
        fields = re.findall(r"^\d+\. `(\w+)` \((.*?)\)", listed.group(1), re.MULTILINE)
        values = {name: self._value(kind, asked) for name, kind in fields}
        if "JSON object" in system:
            return json.dumps(values)
        texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
        return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()) + "\n\n[[ ## completed ## ]]"

    def _value(self, kind: str, asked: str) -> Any:
        if kind.startswith("list"):
            return self._several(asked)
        if kind.startswith("dict"):  # SIMBA: advice for each module
            modules = re.search(r"## module_names ## \]\]\n(\[.*?\])", asked, re.DOTALL)
            return {name: self.caption() for name in json.loads(modules.group(1) if modules else '["self"]')}
        return self.caption()

    def _several(self, asked: str) -> list[str]:
        count = re.search(r"Write (\d+) new|## count ## \]\]\n(\d+)", asked)
        return [self.caption() for _ in range(int(count.group(1) or count.group(2)) if count else 1)]

    def caption(self) -> str:
        """Random phrases of the bank in a random form."""
        drawn = {position: self._random.choice([p.text for p in BANK if p.position == position]) for position in _KINDS}
        second = self._random.choice([p.text for p in BANK if p.position == "adjective"])
        return tidy(self._random.choice(FORMS).format(**drawn, second=second))


_KINDS = ("noun", "adjective", "after")


def phrase_writer(seed: int = 0) -> dspy.LM:
    """The stand-in as a DSPy language model."""
    return dspy.LM("stand-in/phrase-writer", engine=PhraseWriter(seed), cache=False, temperature=1.0)


def main() -> None:
    """Optimize by IPO, then by GEPA, and show what each step brought."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm", help="a LiteLLM name; without it the stand-in answers")
    parser.add_argument("--progress", action="store_true", help="show progress bars on stderr")
    given = parser.parse_args()
    bars = sys.stderr if given.progress else io.StringIO()
    logging.getLogger("dspy").setLevel(logging.ERROR)

    task = demo.load("pixel-animals", shots=4)
    lm = dspy.LM(given.lm, temperature=1.0, engine="litellm") if given.lm else phrase_writer()
    counted = EvaluationCounter()
    ipo = IPO(prompt_model=lm, steps=5, observers=[counted])
    gepa = dspy.GEPA(
        metric=feedback,
        instruction_proposer=TemplateInstructionProposer(),
        reflection_lm=lm,
        max_metric_calls=2000,
        reflection_minibatch_size=10,
        num_threads=1,
    )

    student = task.program.deepcopy()
    together = dspy.BetterTogether(metric=accuracy_metric, ipo=ipo, gepa=gepa)
    print("IPO, then GEPA: half a minute without --lm", flush=True)
    with dspy.context(callbacks=[counted]), contextlib.redirect_stdout(bars), contextlib.redirect_stderr(bars):
        best = together.compile(
            student,
            trainset=list(task.trainset),
            valset=list(task.valset),
            strategy="ipo -> gepa",
            num_threads=1,
            seed=0,
        )
    for row in best.candidate_programs:
        print(
            f"{row['score']:6.2f} % of validation images  {row['strategy'] or 'start':<12}  {row['program'].template}"
        )
    print(f"{counted.count} single-image evaluations")

    saved = Path("together.json").resolve()
    best.save(saved)
    print(f"saved in {saved}, and loaded from there: {ClipClassifier.from_file(saved).template}")


if __name__ == "__main__":
    main()
