"""Name any language model, or bring a proposer of your own: `python examples/any_llm.py openai/gpt-4o-mini`.

Without a name it runs the proposer defined below, so that it can be tried without a key.
"""

import sys

from ipo_dspy import IPO, demo
from ipo_dspy.proposers import Ask, Proposals


class Adjectives:
    """A proposer is any object with this one method."""

    def propose(self, ask: Ask) -> Proposals:
        words = ["blurry", "pixelated", "hand-drawn", "dark", "tiny", "faded", "colorful", "grainy"]
        best = str(ask.shown[-1].template)
        word = words[ask.step % len(words)]
        return Proposals((best.replace("<CLASS>", f"{word} <CLASS>"), f"a {word} picture of a <CLASS>."))


task = demo.load("pixel-animals", shots=4)
if len(sys.argv) > 1:
    optimizer = IPO(prompt_model=sys.argv[1], steps=5, log_dir="runs/any-llm")
else:
    optimizer = IPO(proposer=Adjectives(), steps=8)

best = optimizer.compile(task.program, task.trainset)
for trial in sorted(best.detailed_results.trials, key=lambda t: t.rank)[:5]:
    print(f"{trial.score.accuracy:6.2f} %  loss {trial.score.loss:.3f}  {trial.template}")
print("rejected:", dict(best.detailed_results.rejections))
