r"""Read texts of classes from the free-form answer of a language model.

An answer has a line `label: text | text` for each class, between tags or not, or is a JSON object. A line is read as
such, whatever its label; `texts_of_labels` keeps those of the labels that were asked for.
"""

import json
import re
from collections.abc import Iterable, Sequence

from ipo_dspy.lms.answer_tags import tag_contents
from ipo_dspy.lms.proposal_parsing import MOST_LINES
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.lms.template_text import LONGEST_LINE, has_markup
from ipo_dspy.template import has_placeholder

LONGEST_TEXT = 200
"""Maximum number of characters of a text; a description for the context of CLIP has at most as many."""
_BULLET = re.compile(r"^\s*(?:[-*\u2022]\s+|\d{1,3}[.)]\s+)?")
_QUOTES = " \t\"'`*\u201c\u201d"


def read_class_texts(completion: str, cut: bool = False) -> list[str]:
    r"""Return the lines `label: text | text` of an answer, in order.

    Args:
        completion: answer of a language model.
        cut: whether the token limit truncated it; its last text is then dropped.

    >>> read_class_texts("Sure!\n<INS>crane: crane bird | wading bird</INS>")
    ['crane: crane bird | wading bird']
    >>> read_class_texts('{"crane": ["crane bird", "wading bird"], "nail": ["metal nail"]}')
    ['crane: crane bird | wading bird', 'nail: metal nail']
    >>> read_class_texts("<INS>crane: crane bird\n\nNote: these are names.\n<INS>nail: metal nail")
    ['crane: crane bird', 'nail: metal nail']
    >>> read_class_texts("1. **crane**: crane bird | wading bird\n2. nail: metal na", cut=True)
    ['crane: crane bird | wading bird']
    """
    answer = without_thoughts(completion).answer
    own_lines, inline = tag_contents(answer, _first_line)
    lines = _json_lines(answer) or [
        line
        for content in own_lines or inline or [answer]
        for line in content.splitlines()[-MOST_LINES:]
        if ":" in line and len(line) <= LONGEST_LINE
    ]
    read = [_plain(line) for line in lines]
    if cut and read:
        read[-1] = read[-1].rpartition("|")[0].strip()
    return [line for line in read if line]


def _first_line(content: str) -> str:
    line = content.strip().partition("\n")[0]
    return line if ":" in line else ""


def texts_of_labels(lines: Iterable[str], labels: Sequence[str], *, count: int) -> dict[str, list[str]]:
    """Return at most `count` texts of each label from lines `label: text | text`; other lines are dropped.

    >>> texts_of_labels(["crane: crane bird | crane bird", "note: none"], ["crane", "nail"], count=8)
    {'crane': ['crane bird']}
    """
    texts: dict[str, list[str]] = {}
    ordered = sorted(labels, key=len, reverse=True)  # a label may begin with another one and a colon
    for line in lines:
        label = next((label for label in ordered if line.startswith(f"{label}:")), None)
        if label is not None:
            found = [" ".join(text.strip(_QUOTES).split()) for text in line[len(label) + 1 :].split("|")]
            texts[label] = list(dict.fromkeys([*texts.get(label, []), *filter(None, found)]))[:count]
    return texts


def check_proposed_text(text: str) -> str | None:
    """Return why a proposed text cannot stand for a class, or None.

    >>> check_proposed_text("crane bird"), check_proposed_text("a <CLASS>"), check_proposed_text("x" * 300)
    (None, 'has a placeholder or markup', 'too long')
    """
    if len(text) > LONGEST_TEXT:
        return "too long"
    if has_placeholder(text) or has_markup(text):
        return "has a placeholder or markup"
    return None


def _plain(line: str) -> str:
    """Return a line without list marker, and its label without quotes and emphasis."""
    label, _, texts = _BULLET.sub("", line, count=1).partition(":")
    return f"{label.strip(_QUOTES)}: {texts.strip(_QUOTES + ',;')}"


def _json_lines(answer: str) -> list[str]:
    """Return the lines of a JSON object that maps labels to a text or texts, if it has one."""
    begin, end = answer.find("{"), answer.rfind("}")
    try:
        value = json.loads(answer[begin : end + 1]) if begin >= 0 else None
    except (ValueError, RecursionError):
        return []
    rows = value.items() if isinstance(value, dict) else ()
    texts = [(label, [given] if isinstance(given, str) else given) for label, given in rows]
    return [f"{label}: {' | '.join(map(str, given))}" for label, given in texts if isinstance(given, list)]
