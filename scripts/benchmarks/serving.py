"""Serving over HTTP

Images per second of `ipo-dspy serve`, with one image per request and distinct images, compared with a loop over full
batches in one process. The load generator is wrk; it shares the cores with the server. At half load its 64 connections
pause at random, so that half of the requests per second are sent. Times are those of the clients.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.common import Size, seconds, table
from ipo_dspy import demo
from ipo_dspy.clip.image_features import encode_images, open_image
from ipo_dspy.clip.lru import TensorLRU

CONNECTIONS, IMAGES = 64, 512
HEAD = 'Content-Disposition: form-data; name="files"; filename="image.png"'
SCRIPT = """
local bodies, sent = {}, 0
for i = 1, %d do
  local file = io.open("%s/" .. i, "rb")
  bodies[i] = file:read("*a")
  file:close()
end
request = function()
  sent = sent %% #bodies + 1
  return wrk.format("POST", "/classify", {["Content-Type"] = "multipart/form-data; boundary=limit"}, bodies[sent])
end
if %d > 0 then
  delay = function() return math.random(0, %d) end
end
"""


def write_images(folder: Path, seed: int) -> list[bytes]:
    """Write the bodies of requests to files; returns their images."""
    task, images = demo.load("pixel-animals", shots=1, seed=seed), []
    for i in range(IMAGES):
        image, file = open_image(task.testset[i].image), io.BytesIO()
        image.putpixel((0, 0), (i % 256, i // 256, 0))
        image.save(file, "PNG")
        images.append(file.getvalue())
        body = b"--limit\r\n%b\r\n\r\n%b\r\n--limit--\r\n" % (HEAD.encode(), images[-1])
        (folder / str(i + 1)).write_bytes(body)
    return images


def looped(images: list[bytes]) -> float:
    """Images per second of a loop over full batches, none of them seen before."""
    backbone = demo.load("pixel-animals", shots=1).program.backbone
    best = 0.0
    for _ in range(3):
        backbone.image_memo = TensorLRU(10**7)
        took, _encoded = seconds(lambda: encode_images(backbone, images, checked=True, on_disk=False))
        best = max(best, len(images) / took)
    return best


@contextmanager
def served(program: Path, workers: int) -> Iterator[str]:
    """Serve a program; yields its address when all workers answer."""
    command = [sys.executable, "-m", "ipo_dspy", "serve", str(program), "--port", "0", "--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().partition(" at ")[2].split()[0]
        httpx.get(f"{address}/healthz", timeout=600)
        time.sleep(10 if workers > 1 else 0)  # the others
        yield address
        process.terminate()
    if process.returncode:
        raise SystemExit(f"the server ended with exit code {process.returncode}")


def load(address: str, folder: Path, duration: int, pause: float = 0.0) -> tuple[float, float, float, int]:
    """Send requests; returns how many a second were answered, the median and the 99th percentile in ms, and errors."""
    script = folder / "script.lua"
    script.write_text(SCRIPT % (IMAGES, folder, pause, 2 * pause))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}", "--timeout", "60s", "--latency", "-s", str(script)]
    printed = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec: +([\d.]+)", printed)
    times = {
        name: _milliseconds(value) for name, value in re.findall(r"^ +(\d+)% +(\S+)$", printed, flags=re.MULTILINE)
    }
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(r"Socket errors: (.*)", printed)
    errors = sum(map(int, re.findall(r"\d+", broken[1]))) if broken else 0
    return float(rate[1]) if rate else 0.0, times["50"], times["99"], errors + (int(refused[1]) if refused else 0)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def measured(size: Size, seed: int, folder: Path) -> Iterator[list[str]]:
    """Measure the loop, and servers with one worker and one for each core."""
    images, duration = write_images(folder, seed), 20 if size == "full" else 6
    program = folder / "best.json"
    demo.load("pixel-animals", shots=1).program.save(program)
    reference = looped(images)
    yield ["a loop over batches of 64", f"{reference:.0f}", "", "", "", "", ""]
    for workers in sorted({1, os.cpu_count() or 1}):
        with served(program, workers) as address:
            load(address, folder, 2)  # both workers have seen requests
            rate, *full = load(address, folder, duration)
            pause = 1000 * CONNECTIONS / (rate / 2)
            slower, *half = load(address, folder, duration, pause)
        reference = (reference + looped(images)) / 2  # the machine may be busier now
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        yield [name, f"{rate:.0f}", f"{rate / reference:.0%}", *_shown(*full)]
        yield [f"{name}, half load", f"{slower:.0f}", f"{slower / reference:.0%}", *_shown(*half)]


def _shown(median: float, slowest: float, errors: float) -> list[str]:
    return [f"{median:.0f}", f"{slowest:.0f}", f"{slowest / median:.1f}", f"{errors:.0f}"]


def run(size: Size, seed: int) -> None:
    """Print the table."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk must be installed; on Debian: apt-get install wrk")
    print(f"The bundled model, {IMAGES} PNG files of 64x64 pixels, {CONNECTIONS} connections.\n")
    header = ("", "images per second", "of the loop", "p50, ms", "p99, ms", "p99/p50", "errors")
    with tempfile.TemporaryDirectory() as folder:
        table(header, measured(size, seed, Path(folder)))
