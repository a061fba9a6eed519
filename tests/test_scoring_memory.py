"""Scoring needs the features and a block, never a table of images times classes.

Each measurement is a process of its own. `VmHWM` is what `ru_maxrss` should be: that one also counts what the parent
held before it started the process.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.cli_process import Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc")

SCORE = """
import json, sys
from pathlib import Path
import torch
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.clip.feature_dtype import storage_dtype
from ipo_dspy.scoring.metrics import tally_templates, predict

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024  # MiB

n, c, t, d, choices = map(int, sys.argv[1:])
draw = torch.Generator().manual_seed(0)
unit = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape, generator=draw), dim=-1)
text, labels = unit(t, c, d), torch.randint(c, (n,), generator=draw)
images = torch.empty(n, d, dtype=storage_dtype(n, d))
for block in images.split(10_000):
    block.copy_(unit(*block.shape))
names = [str(i) for i in range(c)]
sets = [tuple(names), tuple(names[::-1])]
allowed = CandidateClasses.of((sets[i % 2] for i in range(n)), {x: i for i, x in enumerate(names)}) if choices else None
before = peak()
tallies = tally_templates(images, labels, text, logit_scale=100.0, allowed=allowed)
predicted, _ = predict(images, text[0], logit_scale=100.0, allowed=allowed)
report = {"images": tallies[0].images, "same": int((predicted == labels).sum()) == tallies[0].correct}
print(json.dumps({**report, "format": str(images.dtype), "before": before, "peak": peak()}))
"""


@pytest.fixture
def processes(tmp_path: Path, forking_parent: Processes) -> Processes:
    return Processes(tmp_path, {}, parent=forking_parent)


def measured(
    processes: Processes, images: int, classes: int, templates: int, width: int, *, choices: bool
) -> dict[str, Any]:
    done = processes.python(SCORE, *map(str, (images, classes, templates, width, int(choices))))
    assert done.code == 0, done.err
    report: dict[str, Any] = json.loads(done.out)
    assert (report["images"], report["same"]) == (images, True)
    return report


@pytest.mark.end_to_end
@pytest.mark.parametrize("choices", [False, True])
def test_memory_does_not_grow_with_images_times_classes(processes: Processes, choices: bool) -> None:
    report = measured(processes, 200_000, 1000, 1, 4, choices=choices)  # all logits would be 800 MB, all choices 200 MB
    assert report["format"] == "torch.float32"
    assert report["peak"] - report["before"] < 100


@pytest.mark.slow
def test_the_images_of_imagenet_take_less_than_3_gb(processes: Processes) -> None:
    report = measured(processes, 1_280_000, 1000, 8, 512, choices=False)
    assert report["format"] == "torch.float16"
    assert report["peak"] < 3000
