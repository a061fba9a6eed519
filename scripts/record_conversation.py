"""`python scripts/record_conversation.py TASK --model NAME [--folder FOLDER]` records answers of a language model.

Each request of a search on a bundled task is written to FOLDER/1.request.txt, 2.request.txt, ...; the search continues
when somebody has written the answer to FOLDER/1.answer.txt, ... The model that answers must see nothing but the
requests. At the end, all of it is in tests/conversations/TASK.json, which tests and `scripts/bench.py recorded` replay.
"""

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.conversations import FOLDER, SEED, SHOTS, STEPS, Recorder, search
from ipo_dspy import demo


def main() -> None:
    """Record one conversation."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=demo.names())
    parser.add_argument("--model", required=True, help="the model that answers, for the record")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print(f"requests are written to {folder}", flush=True)
    with Recorder(options.task, folder) as server:
        _, best = search(server, options.task)
    recording = {
        "model": options.model,
        "recorded": datetime.now(UTC).date().isoformat(),
        "settings": {"shots": SHOTS, "steps": STEPS, "seed": SEED},
        "exchanges": server.exchanges,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{options.task}.json").write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(server.exchanges)} answers; result: {best.template}")


if __name__ == "__main__":
    main()
