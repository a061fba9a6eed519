"""Choose what proposes templates: a language model by name, a local server, none at all, or your own code.

`python examples/swap_backends.py` runs the two that need no key; name a model to ask it:
`python examples/swap_backends.py openai/gpt-4o-mini`.
"""

import sys

import dspy

from ipo_dspy import IPO, demo
from ipo_dspy.proposers import ProposalRequest, Proposals


class Adjectives:
    """A proposer is any object with this one method."""

    def propose(self, ask: ProposalRequest) -> Proposals:
        words = ["blurry", "pixelated", "hand-drawn", "dark", "tiny", "faded", "colorful", "grainy"]
        best = str(ask.shown[-1].template)
        word = words[ask.step % len(words)]
        return Proposals((best.replace("<CLASS>", f"{word} <CLASS>"), f"a {word} picture of a <CLASS>."))


def local_server(url: str) -> IPO:
    """A model behind an OpenAI-compatible server such as vLLM, Ollama or llama.cpp."""
    return IPO(prompt_model=dspy.LM("openai/phi-3", api_base=url, api_key="none", engine="litellm"), steps=5)


optimizers = {
    "evolution": IPO(proposer="evolution", steps=5),
    "own code": IPO(proposer=Adjectives(), steps=8),
}
if len(sys.argv) > 1:
    optimizers = {sys.argv[1]: IPO(prompt_model=sys.argv[1], steps=5)}

task = demo.load("pixel-animals", shots=4)
for name, optimizer in optimizers.items():
    best = optimizer.compile(task.program, task.trainset)
    print(f"{name}: {best.detailed_results.best.score}  {best.template}")
    print("  rejected:", dict(best.detailed_results.rejections))
