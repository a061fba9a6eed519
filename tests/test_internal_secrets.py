"""Keys are planted everywhere and everything is run; then every written byte is searched for them, and for images."""

import base64
import gzip
import io
import json
import os
import secrets
import sqlite3
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import dspy
import pytest
from PIL import Image

from helpers.cli_process import Done, Processes
from helpers.openai_server import Reply, Writer, images_of, text_of
from ipo_dspy import demo
from ipo_dspy._internal.untrusted import redact
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.lms.adapters import PlainAdapter
from ipo_dspy.lms.requests import request
from ipo_dspy.lms.signatures import DescribeImage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")

SHOWN = 12
"""This many first characters of a secret are a leak, too."""


def _secret(prefix: str, odd: str = "") -> str:
    return prefix + secrets.token_hex(16) + odd


ENVIRONMENT = {
    "OPENAI_API_KEY": _secret("sk-proj-"),
    "HF_TOKEN": _secret("hf_"),
    "GEMINI_API_KEY": _secret(""),
    "ANTHROPIC_API_KEY": _secret("Zq9", "+/=%41&x#~:@!"),
    "AWS_SECRET_ACCESS_KEY": _secret("wJalr", "/K7MDENG+b"),
    "WANDB_API_KEY": _secret(""),
}
FILES = {"token": _secret("hf_"), "stored_tokens": _secret("hf_")}  # in HF_HOME
PROXY = _secret("px")
PASSWORD = _secret("pw", "%2F%40x")  # in an address, so encoded
GIVEN = {
    "api_key": _secret("Qk", "+/=%41&x~:!"),
    "Authorization": _secret("tok"),
    "X-Api-Key": _secret(""),
    "password": _secret("pw", "%2B%3Ay"),
    "path": _secret("Gw"),
}
SECRETS = {
    **ENVIRONMENT,
    **FILES,
    "proxy": PROXY,
    "env password": PASSWORD,
    **{f"given {name}": value for name, value in GIVEN.items()},
}


def forms(secret: str, user: str = "me") -> dict[str, bytes]:
    """Return the secret in each form in which it can travel, to search for."""
    from urllib.parse import unquote

    written = {"as it is": secret, "decoded": unquote(secret)}
    found = {name: text.encode() for name, text in written.items()}
    found |= {
        "first characters": secret[:SHOWN].encode(),
        "encoded": quote(secret, safe="").encode(),
        "encoded as a form": quote_plus(secret).encode(),
    }
    for name, text in {**written, "user": f"{user}:{secret}", "user, decoded": f"{user}:{unquote(secret)}"}.items():
        for shift in range(3):
            # Wherever it stands in what is encoded: without the ends, which depend on the characters around it.
            encoded = base64.b64encode(b"\0" * shift + text.encode())
            found[f"base64 of {name} at {shift}"] = encoded[4 if shift else 0 : -4]
    return found


NEEDLES = {(name, form): needle for name, secret in SECRETS.items() for form, needle in forms(secret).items()}


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, also those inside of what is packed."""
    yield str(path), (raw := path.read_bytes())
    yield from unpacked(str(path), raw)
    if raw.startswith(b"SQLite format 3\0"):
        yield f"{path} rows", b"\n".join(rows(path))


def unpacked(name: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    for kind, unpack in (("gzip", gzip.decompress), ("zlib", zlib.decompress)):
        try:
            yield f"{name} {kind}", unpack(raw)
        except (OSError, EOFError, zlib.error):
            continue
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            for member in packed.namelist():
                yield f"{name} {member}", packed.read(member)


def rows(path: Path) -> Iterator[bytes]:
    """All values of a database, each whole: on disk a long one lies in pieces."""
    connection = sqlite3.connect(path)
    try:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    raw = value if isinstance(value, bytes) else str(value).encode()
                    yield from (raw, *(inner for _, inner in unpacked("", raw)))
    finally:
        connection.close()


def search(folder: Path, needles: Mapping[Any, bytes], *, without: Iterable[Path] = ()) -> list[tuple[str, Any]]:
    """Return the needles that are in the files of a folder, with their places."""
    left_out = set(without)
    return [
        (name, key)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not left_out & {path, *path.parents}
        for name, content in contents(path)
        for key, needle in needles.items()
        if needle in content
    ]


class Quoting(Writer):
    """A server that answers some requests with errors that quote all that the request brought, and more.

    Every other description and template fails; the model `wrong` is refused, `dying` answers only pings.

    Attributes:
        dies_after: the number of requests for templates after which no more of them is answered.
        quotes: the errors.
        pictures: URLs of all images that came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dies_after: int | None = None
        self.quotes: list[str] = []
        self.pictures: set[str] = set()
        self.counts: Counter[str] = Counter()

    def answer(self, body: dict[str, Any]) -> Reply:
        usual = super().answer(body)
        with self._counting:
            self.pictures.update(images_of(body))
            ping = "Say: ready" in text_of(body)
            kind = "picture" if images_of(body) else "ping" if ping else "template"
            self.counts[kind] += 1
            match body["model"], kind:
                case ("wrong", _):
                    return Reply(self.quote(body), status=401)
                case (_, "ping"):
                    return usual
                case ("echo", "picture"):
                    return Reply(self.quote(body))
                case ("dying", _):
                    return Reply(self.quote(body), status=500)
                case _ if self.counts[kind] % 2 == 0 or self.dead:
                    return Reply(self.quote(body), status=500)
        return usual

    @property
    def dead(self) -> bool:
        return self.dies_after is not None and self.counts["template"] > self.dies_after

    def quote(self, body: dict[str, Any]) -> str:
        """As careless as an error can be."""
        headers = {name.lower(): value for name, value in self.headers[-1].items()}
        kept = {name: headers[name] for name in ("authorization", "x-api-key") if name in headers}
        tokens = [value.split(" ")[-1] for value in kept.values()]
        if kept["authorization"].startswith("Basic "):
            tokens += base64.b64decode(tokens[0]).decode().split(":", 1)
        tokens += (*ENVIRONMENT.values(), *FILES.values(), PROXY)
        tokens += [GIVEN["path"]] if GIVEN["Authorization"] in tokens else []
        said = [
            *(f"Incorrect API key provided: {token}" for token in tokens),
            *(f"{name}: {value}" for name, value in kept.items()),
            *(f"POST https://host/v1?key={quote(token, safe='')}&x=1" for token in tokens),
            *(f"Basic {base64.b64encode(token.encode()).decode()}" for token in tokens),
            *(f"masked {token[: SHOWN + 2]}****" for token in tokens if len(token) > SHOWN),
            *images_of(body),
        ]
        # Another quotation comes first each time, since only the beginning of a fault is kept.
        turn = 7 * len(self.quotes) % len(said)
        self.quotes.append("; ".join(said[turn:] + said[:turn]))
        return self.quotes[-1]


SCRIPT = """
import json, logging, sys, traceback
import dspy
from ipo_dspy import IPO, demo, write_report

given, safe_base = json.loads(sys.argv[1]), sys.argv[2]
handler = logging.FileHandler("debug.log")
for name in ("ipo_dspy", "dspy"):
    logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger(name).addHandler(handler)


def lm(model, **settings):
    return dspy.LM(model, engine="litellm", temperature=1.0, num_retries=0, **{**given, **settings})


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.look = task.program
        self.remark = dspy.Predict("label -> remark")
        self.remark.lm = lm("openai/toy")

    def forward(self, image):
        return self.look(image=image)


task = demo.load("pixel-animals", shots=1)
options = {"steps": 3, "prompts_per_step": 2, "max_consecutive_errors": 9, "observers": [print]}
eyes = lm("openai/eyes", api_base=safe_base)  # without a password, so DSPy's cache is used
optimizer = IPO(prompt_model=lm("openai/toy"), description_model=eyes, log_dir="python", **options)
best = optimizer.compile(Program(), task.trainset)
assert best.detailed_results.status == "finished"
best.look.save("saved.json")
best.look.save("whole", save_program=True)
print(best, best.detailed_results, optimizer, write_report("python"))
for number, models in enumerate([("toy", "wrong"), ("wrong", "eyes"), ("toy", "dying"), ("dying", "echo")]):
    try:
        names = dict(zip(("prompt_model", "description_model"), (lm(f"openai/{model}") for model in models)))
        options = {**options, "max_consecutive_errors": 2, "max_described_images": 4}
        IPO(**names, log_dir=f"failing-{number}", **options).compile(task.program, task.trainset)
        print("no error")
    except Exception as error:
        traceback.print_exc()
        logging.getLogger("ipo_dspy").exception("it failed")
        print("failed as", type(error).__name__)
"""


@dataclass(frozen=True)
class Ran:
    """The processes that ran, and the folder with all that they wrote."""

    folder: Path
    server: Quoting
    done: dict[str, Done]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Everything, once."""
    folder = tmp_path_factory.mktemp("all")
    photos = tmp_path_factory.mktemp("photos")
    for example in demo.load("pixel-animals", shots=1).trainset[:4]:
        (photos / example.label).mkdir()
        open_image(example.image).save(photos / example.label / "1.png")
    picture = next(photos.rglob("*.png"))
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DSPY_CACHEDIR", "HF_HOME", "IPO_DSPY_CACHE")
    places = {name: folder / name.lower() for name in names}
    for place in places.values():
        place.mkdir()
    (places["HF_HOME"] / "token").write_text(FILES["token"])
    (places["HF_HOME"] / "stored_tokens").write_text(f"[mine]\nhf_token = {FILES['stored_tokens']}\n")
    lm, vlm = (
        ("--prompt-model", "openai/toy", "--prompt-model-kwargs", "num_retries=0"),
        ("--description-model", "openai/eyes", "--description-model-kwargs", "num_retries=0"),
    )
    search = ("demo", *lm, *vlm, "--shots", "1", "--steps", "2", "--max-consecutive-errors", "9", "--log-dir", "run")
    failing = (
        "--debug",
        "demo",
        "--shots",
        "1",
        "--steps",
        "2",
        "--max-consecutive-errors",
        "2",
        "--prompt-model-kwargs",
        "num_retries=0",
    )
    with Quoting() as server:
        base = server.url.replace("//", f"//me:{PASSWORD}@")
        proxy = {"ALL_PROXY": f"http://me:{PROXY}@127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        environment = {**{k: str(v) for k, v in places.items()}, **ENVIRONMENT, **proxy, "OPENAI_API_BASE": base}
        given = {
            "api_key": GIVEN["api_key"],
            "api_base": server.url.replace("//", f"//me:{GIVEN['password']}@").replace("/v1", f"/{GIVEN['path']}/v1"),
            "extra_headers": {"Authorization": f"Token {GIVEN['Authorization']}", "X-Api-Key": GIVEN["X-Api-Key"]},
        }
        with Processes(folder, environment) as processes:
            run = processes.run
            done = {"python": processes.python(SCRIPT, json.dumps(given), server.url)}
            done["dry run"] = run(*search, "--dry-run")
            server.dies_after = server.counts["template"] + 2
            done["dead server"] = run(*search)
            server.dies_after = None
            done["resume"] = run(*search)
            done["report"] = run("report", "run")
            done["watch"] = run("watch", "--once", "run")
            done["doctor"] = run("doctor", "--prompt-model", "openai/toy", "--description-model", "openai/wrong")
            done["evaluate"] = run("evaluate", "run/best.json", str(photos))
            done["classify"] = run("classify", "run/best.json", str(picture))
            done["describe"] = run("describe", str(photos), *vlm, "--num-threads", "1")
            done["wrong key"] = run(*failing, "--prompt-model", "openai/wrong", "--log-dir", "wrong")
            done["blind"] = run("--debug", "describe", str(photos), "--description-model", "openai/dying", *vlm[2:])
    return Ran(folder, server, done)


@pytest.mark.end_to_end
def test_all_of_it_ran(ran: Ran) -> None:
    """Or the search would find nothing because there is nothing."""
    codes = {name: done.code for name, done in ran.done.items()}
    wrong = dict.fromkeys(("dead server", "doctor", "wrong key", "blind"), 1)
    assert codes == {name: wrong.get(name, 0) for name in codes}, ran.done
    assert len(ran.server.quotes) > 40
    ended = [line for line in ran.done["python"].out.splitlines() if line.startswith(("failed as", "no error"))]
    refused = "failed as LanguageModelError"
    assert ended == [refused, refused, "failed as NoAnswerError", "no error"]
    for name in ("wrong key", "blind"):
        assert "Traceback" in ran.done[name].err
    for file in ("debug.log", "python/best.json", "python/report.html", "run/report.html", "saved.json"):
        assert (ran.folder / file).stat().st_size > 500
    assert b"[hidden]" in (ran.folder / "debug.log").read_bytes()
    assert (ran.folder / "ipo_dspy_cache" / "image-features" / "data.mdb").is_file()
    cached = [row for path in (ran.folder / "dspy_cachedir").rglob("cache.db") for row in rows(path)]
    assert sum(b"a grainy pixel art picture" in row for row in cached) > 5
    sent = {name: value for headers in ran.server.headers for name, value in headers.items()}
    assert sent["X-Api-Key"] == GIVEN["X-Api-Key"]


@pytest.mark.end_to_end
def test_no_key_is_in_any_written_byte(ran: Ran) -> None:
    assert search(ran.folder, NEEDLES, without=[ran.folder / "hf_home" / name for name in FILES]) == []


@pytest.mark.end_to_end
def test_no_image_is_in_any_written_byte(ran: Ran) -> None:
    needles = {}
    for number, url in enumerate(sorted(ran.server.pictures)):
        payload = url.partition("base64,")[2]
        middle = len(payload) // 8 * 4
        needles[number, "base64"] = payload[middle : middle + 24].encode()
        needles[number, "bytes"] = base64.b64decode(payload)[middle // 2 :][:16]
    assert len(needles) > 20
    assert search(ran.folder, needles) == []
    pages = set(ran.folder.rglob("report.html"))  # they show thumbnails
    assert search(ran.folder, {"any": b";base64,", "PNG": b"iVBORw0KGgo", "JPEG": b"/9j/4AAQ"}, without=pages) == []


def test_a_header_that_is_a_word_is_hidden_in_faults_and_not_in_answers() -> None:
    with Writer() as server:
        lm = server.lm(api_key="picture", extra_headers={"X-Title": "grainy"}, cache=False)
        inputs = {"image": dspy.Image(Image.new("RGB", (8, 8)))}
        answer = request(lm, PlainAdapter(), DescribeImage, inputs, field="description")
    assert answer.texts == ("a grainy pixel art [hidden]",)  # a key is a key, whatever it looks like
    assert redact("a grainy picture") == "a [hidden] [hidden]"


def test_the_search_finds_a_key_in_any_hiding_place(tmp_path: Path) -> None:
    for name, secret in SECRETS.items():
        (tmp_path / "a").mkdir(exist_ok=True)
        file = tmp_path / "a" / "b"
        for planted in (
            f"x{secret}y",
            secret[:SHOWN],
            quote(secret, safe=""),
            *(base64.b64encode(f"{user}{secret}".encode()).decode() for user in ("", "me:", "a:", "ab:")),
        ):
            for pack in (bytes, gzip.compress, zlib.compress):
                file.write_bytes(pack(planted.encode()))
                assert {key[0] for _, key in search(tmp_path, NEEDLES)} == {name}, planted
        file.unlink()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("in/side", ENVIRONMENT["HF_TOKEN"])
    assert {key[0] for _, key in search(tmp_path, NEEDLES)} == {"HF_TOKEN"}
    file.unlink()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE t (v BLOB)")
    connection.execute("INSERT INTO t VALUES (?)", (zlib.compress(GIVEN["api_key"].encode()),))
    connection.commit()
    connection.close()
    assert {key[0] for _, key in search(tmp_path, NEEDLES)} == {"given api_key"}
