"""A session of a run: `python sessions.py URL FOLDER STEPS` starts or resumes the run in the folder and finishes it."""

import sys

import dspy

from ipo_dspy import IPO, demo


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


if __name__ == "__main__":
    run_session(sys.argv[1], sys.argv[2], int(sys.argv[3]))
