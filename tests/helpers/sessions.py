"""Sessions of one run, each in a separate process that can be killed; the parent has everything imported.

`python sessions.py URL FOLDER STEPS` reads lines from stdin: for each a child is forked that starts or resumes the run
in the folder, and its process id is printed, then `done CODE` when it has ended. Forking saves the time of the imports.
"""

import os
import sys

import dspy

import ipo_dspy.clip.loading  # so that the children need not import it
import ipo_dspy.optimizer.evaluation
import ipo_dspy.scoring.scorers  # noqa: F401
from ipo_dspy import IPO, demo
from ipo_dspy.lms.usage import cost_usd


def run_session(url: str, folder: str, steps: int) -> None:
    """Start or resume the run, and finish it."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    task = demo.load("pixel-animals", shots=1)
    lm = dspy.LM("openai/toy", api_base=url, api_key="none", engine="litellm", temperature=1.0, num_retries=0)
    optimizer = IPO(
        prompt_model=lm,
        description_model=lm,
        max_described_images=6,
        steps=steps,
        prompts_per_step=4,
        num_threads=1,
        log_dir=folder,
    )
    optimizer.compile(task.program, task.trainset, valset=task.valset)


def main() -> None:
    """Fork a child for each line of stdin."""
    url, folder, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    cost_usd("openai/gpt-4o-mini", 1, 1)  # imports LiteLLM
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run_session(url, folder, steps)
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)  # noqa: T201
        _, status = os.waitpid(child, 0)
        print("done", os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
