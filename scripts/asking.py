"""Measure requests to the language model: prompt tokens per candidate, relative time, choice of descriptions.

`python scripts/asking.py tokens|latency|descriptions|overlap` prints the tables of docs/experiments.md and
docs/running.md. The language model is a stand-in on loopback that answers after `--latency` seconds; its words mean
nothing here.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import torch

from benchmarks.common import commit, machine, table
from ipo_dspy import IPO, EvolutionProposer, LMProposer, PaperAdapter, demo
from ipo_dspy.lms.signatures import ProposePrompts
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.proposers import ProposalRequest, Proposals
from ipo_dspy.proposers.description_selection import rotate, select_evenly

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.openai_server import Reply, Writer, text_of


class Slow(Writer):
    """Answers a little later, as one does that computes."""

    latency = 0.0

    def answer(self, body: dict[str, Any]) -> Reply:
        """The usual reply, late."""
        return replace(super().answer(body), delay=self.latency)

    def templates(self, said: str, count: int) -> list[str]:
        """Always new ones, so that no step is without work for the scorer."""
        return super().templates(f"{said} {self.asked}", count)


class Recording(LMProposer):
    """Keeps what it was asked."""

    def propose(self, ask: ProposalRequest) -> Proposals:
        """As usual."""
        asks.append(ask)
        return super().propose(ask)


asks: list[ProposalRequest] = []


def tokens(options: argparse.Namespace) -> None:
    """Prompt tokens per candidate, compared with one request for each in the form of the paper, which resends all."""
    import litellm

    def count(text: str) -> int:
        return int(litellm.token_counter(model="openai/gpt-3.5-turbo", text=text))

    def alone(ask: ProposalRequest, budget: int) -> int:
        proposer = LMProposer(adapter=PaperAdapter())
        inputs = proposer._inputs(ask, 1, select_evenly(ask.descriptions, budget, ask.step))
        messages = proposer.adapter.format(ProposePrompts, [], inputs)
        return count("\n".join(message["content"] for message in messages))

    task = demo.load("pixel-animals", shots=16, seed=options.seed)
    sentence = (
        "A small, grainy black and white picture, pixelated, on a plain background, seen from the side, number {}."
    )
    with Writer() as server:
        optimizer = IPO(
            proposer=Recording(server.lm(cache=False)),
            steps=options.steps,
            describer=Sentences(sentence),
            max_described_images=len(task.trainset),
            seed=options.seed,
        )
        optimizer.compile(task.program, task.trainset)
        asked = [text_of(body) for body in server.requests if "Write" in text_of(body)]
    ours = sum(map(count, asked)) / (8 * len(asks))
    rows = [("this library: 8 candidates a request, descriptions within 2,000 tokens", f"{ours:.0f}", "")]
    for name, budget in {"the same descriptions": 2000, f"all {len(task.trainset)} descriptions": 10**9}.items():
        each = sum(alone(ask, budget) for ask in asks) / len(asks)
        rows.append((f"one request a candidate, {name} resent", f"{each:.0f}", f"{each / ours:.1f}"))
    table(("scheme", "prompt tokens per candidate", "ours is one in"), rows)
    print(f"\n{len(asked)} requests for {8 * len(asks)} candidates")


class Sentences:
    """Describes every image in a sentence of the usual length."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    def describe(self, images: Sequence[Any], class_names: Sequence[str], *, once: Any = None) -> Any:
        """One text an image."""
        from ipo_dspy.describers.base import Descriptions

        return Descriptions(tuple(self.sentence.format(i) for i in range(len(images))))


def latency(options: argparse.Namespace) -> None:
    """Seconds of a complete run compared with the language model's own critical path."""
    task = demo.load("pixel-animals", shots=16, seed=options.seed)
    print("| next question asked while scoring | candidates | seconds | LLM alone | ratio |")
    print("|---|---:|---:|---:|---:|")
    for prefetch in (True, False):
        with Slow() as server:
            Slow.latency = 0.0
            lm = server.lm(cache=False)
            given: dict[str, Any] = {"prompt_model": lm, "describer": None, "prefetch": prefetch, "seed": options.seed}
            IPO(steps=1, **given).compile(task.program, task.trainset)  # loads what is loaded once a process
            Slow.latency = options.latency
            before, began = len(server.requests), time.monotonic()
            best = IPO(steps=options.steps, **given).compile(task.program, task.trainset)
            seconds = time.monotonic() - began
            # Sequential requests: the connectivity check, then a step's question needs the step before.
            alone = options.latency * (len(server.requests) - before)
        tried = len(best.detailed_results.trials) - 1 + sum(best.detailed_results.rejections.values())
        print(
            f"| {'yes' if prefetch else 'no'} | {tried} | {seconds:.1f} | {alone:.1f} | {seconds / alone:.3f} |",
            flush=True,
        )


class Shown:
    """Evolution that is shown as many descriptions as a prompt would hold."""

    def __init__(self, way: str | None, budget: int) -> None:
        self.way, self.budget, self.evolution = way, budget, EvolutionProposer()

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Templates in the light of some of the descriptions."""
        if self.way is None:
            return self.evolution.propose(ask)
        select = rotate if self.way == "rotate" else select_evenly
        shown = select(ask.descriptions, self.budget, ask.step)
        return self.evolution.propose(replace(ask, descriptions=tuple(shown)))


def descriptions(options: argparse.Namespace) -> None:
    """Which descriptions to show where not all fit: the same at each step, others at each step, or all in few words."""
    ways: Mapping[str, tuple[str | None, int]] = {
        "even over classes": ("even", options.budget),
        "rotating": ("rotate", options.budget),
        "all (what a faultless summary would say)": (None, 0),
        "none": ("even", 0),
    }
    compare(
        f"descriptions within {options.budget} tokens",
        {name: {"proposer": Shown(way, budget)} for name, (way, budget) in ways.items()},
        options,
    )


def overlap(options: argparse.Namespace) -> None:
    """Measure the effect of prefetching the next request before the last answers are scored."""
    ways: Mapping[str, Mapping[str, Any]] = {
        "after scoring": {"proposer": EvolutionProposer(), "prefetch": False},
        "while scoring": {"proposer": EvolutionProposer(), "prefetch": True},
    }
    compare("next question asked", ways, options)


def compare(title: str, ways: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Runs over all tasks and seeds, one row a way."""

    def rows() -> Iterator[tuple[str, ...]]:
        first: list[tuple[float, ...]] = []
        for name, given in ways.items():
            runs = [measure(task, seed, given, options.steps) for task in demo.names() for seed in range(options.seeds)]
            columns = list(zip(*runs, strict=True))
            first = first or columns
            yield name, *map(paired, columns, first)

    table((title, "train after 10 steps", "train", "test base", "test novel"), rows())
    print("\nIn brackets: difference to the first row on the same task and seed, with its standard error.")


def paired(column: Sequence[float], base: Sequence[float]) -> str:
    """A mean, and how it differs from that of other runs on the same tasks and seeds."""
    gaps = [mine - other for mine, other in zip(column, base, strict=True)]
    cell = f"{statistics.mean(column):.1f}"
    if any(gaps):
        cell += f" ({statistics.mean(gaps):+.1f} +- {statistics.stdev(gaps) / len(gaps) ** 0.5:.1f})"
    return cell


def measure(task: str, seed: int, given: Mapping[str, Any], steps: int) -> tuple[float, ...]:
    """Accuracy on train after 10 steps and at the end, on test base and on test novel."""
    base, novel = (demo.load(task, seed=seed, classes=half) for half in ("base", "novel"))
    best: Any = IPO(steps=steps, seed=seed, **given).compile(base.program, base.trainset, valset=base.valset)
    trials = best.detailed_results.trials
    early = min((t for t in trials if t.step <= 10), key=lambda t: t.rank).score.accuracy
    (on_base,) = evaluate(best, base.testset)
    best.classes = novel.classes
    (on_novel,) = evaluate(best, novel.testset)
    return early, best.detailed_results.best.score.accuracy, on_base.score.accuracy, on_novel.score.accuracy


def main() -> None:
    """Print one of the tables and where it was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=["tokens", "latency", "descriptions", "overlap"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--budget", type=int, default=60)
    options = parser.parse_args()
    stamp = f"commit {commit()}, {machine(['torch'])}"  # now: the tree may change during a long run
    options.steps = options.steps or {"tokens": 20, "latency": 100}.get(options.table, 40)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    tables = {"tokens": tokens, "latency": latency, "descriptions": descriptions, "overlap": overlap}
    tables[options.table](options)
    print(f"\n{stamp}, {torch.get_num_threads()} threads, seed {options.seed}, {options.steps} steps")


if __name__ == "__main__":
    main()
