"""Fail on words that were cleared out of this project, with the word to use instead.

`python scripts/check_words.py` reads the files that git tracks. Each pattern is a private word, an idiom, or a British
spelling that once had to be explained to readers; the list says what the field calls it.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    r"sittings?": "session",
    r"greet(s|ed|ing|ings)?": "connectivity check, ping",
    r"dear(er|est)": "more or most expensive",
    r"anew": "again, from scratch",
    r"is no(?= \w)(?! longer| more| faster| slower| better| worse)": "is not a; errors: must be",
    r"at rest": "stored",
    r"so (many|much)(?! (faster|slower|more|less|that))": "this many, at most N",
    r"(go|goes|gone|going|went) on(?! (to|with)\b)": "continue, resume",
    r"(tell|tells|told|telling)(?! apart|\()": "report, log, say, show",
    r"(take|takes|taken|took) up(?! to\b)": "resume",
    r"mend(s|ed|ing)?": "fix",
    r"beside": "next to, compared with",
    r"alike": "identical, similar",
    r"in words": "as text",
    r"(models?|one|ones) that sees?": "multimodal",
    r"likewise": "also",
    r"whole number": "integer",
    r"hear(s|d)?": "receive, is notified",
    r"of (one's|your|our) own": "custom, self-hosted, separate",
    r"(summari|normali|recogni|optimi|initiali|generali|minimi|maximi|reali|organi)s(e|es|ed|ing|ation)": "US: -ize",
    r"(colour|neighbour|behaviour|honour|favour)\w*": "US: -or",
    r"(labelled|labelling|modelling|cancelled|travelling)": "US: one l",
    r"licences?": "license",
    r"towards": "US: toward",
    r"embedded (search|proposer|describer)": "built-in",
    r"images? a class": "per class",
}
"""Pattern of a whole word or phrase, in lower case, and what to write instead."""
DOCSTRING = re.compile(r'^\s*[rf]?"""(What|Whether|Where|How)\b')
TEST_NAME = re.compile(r"def test_\w+")
ERROR = re.compile(r"[;,] write (?!permission|access|<CLASS>)")
SUFFIXES = {".py", ".md", ".ipynb", ".j2", ".toml", ".yml", ".yaml", ".cff"}
EXEMPT = (
    "scripts/check_words.py",
    "scripts/demo/",
    "src/ipo_dspy/lms/signatures.py",
    "docs/results.md",
    "tests/test_check_words.py",
)
"""This list, training captions, requests to language models, a page that a command writes, and the list's test."""
KEPT = "# kept: "
"""Marks a line whose word is in files of earlier versions."""
PATTERN = re.compile("|".join(rf"(?<![\w-])(?P<w{i}>{word})(?![\w-])" for i, word in enumerate(WORDS)), re.IGNORECASE)


def tracked() -> list[Path]:
    """Return the text files that git tracks."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in listed if Path(name).suffix in SUFFIXES and not name.startswith(EXEMPT)]


def findings(text: str, *, python: bool) -> Iterator[tuple[int, str, str]]:
    """Yield line number, the word that was found, and the word to use.

    >>> list(findings("Whether it is dearer", python=False))
    [(1, 'dearer', 'more or most expensive')]
    """
    replacements = list(WORDS.values())
    for number, line in enumerate(text.splitlines(), start=1):
        if KEPT in line:
            continue
        if python:
            line = TEST_NAME.sub(lambda name: name[0].replace("_", " "), line)
        for match in PATTERN.finditer(line):
            yield number, match[0], replacements[int(str(match.lastgroup)[1:])]
        if python and (opening := DOCSTRING.match(line)):
            yield number, opening[1], "a command or a noun phrase"
        if python and (verb := ERROR.search(line)):
            yield number, verb[0].strip(), "pass, set, use, install, rename"


def main() -> int:
    """Print each finding; return 1 if there are any."""
    count = 0
    for path in tracked():
        if not path.exists():
            continue
        for number, word, instead in findings(path.read_text(encoding="utf-8"), python=path.suffix == ".py"):
            print(f"{path}:{number}: {word!r}: use {instead}")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
