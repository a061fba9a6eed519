"""`python scripts/record_conversation.py TASK --model NAME [--folder FOLDER]` records answers of a language model.

Each request of a search on a bundled task, or of the search for words on all of them (`class_texts`), is written to
FOLDER/1.request.txt, 2.request.txt, ...; the search continues when somebody has written the answer to
FOLDER/1.answer.txt, ... The model that answers must see nothing but the requests. At the end, all of it is in
tests/conversations/TASK.json, which tests and `scripts/bench.py recorded` (or `class_texts`) replay.
"""

import argparse
import itertools
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.conversations import (
    FOLDER,
    SEED,
    SHOTS,
    STEPS,
    WORD_SEEDS,
    WORDS,
    Recorder,
    search,
    search_words,
)
from ipo_dspy import demo


def main() -> None:
    """Record one conversation."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=(*demo.names(), WORDS))
    parser.add_argument("--model", required=True, help="the model that answers, for the record")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print(f"requests are written to {folder}", flush=True)
    recording: dict[str, Any] = {"model": options.model, "recorded": datetime.now(UTC).date().isoformat()}
    file = FOLDER / f"{options.task}.json"
    with Recorder(options.task, folder) as server:
        if options.task == WORDS:
            for name, seed in itertools.product(demo.names(), WORD_SEEDS):
                search_words(server, name, seed)
            templates = json.loads(file.read_text(encoding="utf-8"))["templates"]
            recording |= {"settings": {"shots": SHOTS, "seeds": WORD_SEEDS}, "templates": templates}
        else:
            _, best = search(server, options.task)
            print(f"result: {best.template}")
            recording |= {"settings": {"shots": SHOTS, "steps": STEPS, "seed": SEED}}
    recording |= {"exchanges": server.exchanges}
    file.write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(server.exchanges)} answers")


if __name__ == "__main__":
    main()
