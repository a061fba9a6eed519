"""Separate a language model's answer from its reasoning, and recognize refusals."""

import re
from typing import NamedTuple

_NAMES = "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|seed:think"
_OPENED = re.compile(
    rf"<\s*(?:{_NAMES})\s*>|\[THINK\]|\u25c1think\u25b7|<\|begin_of_thought\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)\b|\A\s*analysis(?=[A-Z])",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"<\s*/\s*(?:{_NAMES})\s*>|\[/THINK\]|\u25c1/think\u25b7|<\|end_of_thought\|>"
    r"|<\|channel\|>\s*final\b[^<]{0,40}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>|assistantfinal",
    re.IGNORECASE,
)
_TURNS = re.compile(r"<\|(?:start|end|return|message|im_start|im_end|eot_id|call)\|>(?:assistant\b)?")

_I_AM = r"i(?: am|'m)"
_UNABLE = rf"(?:i (?:can(?:no|')?t|can not|won't|do not|don't)|{_I_AM} (?:unable|not able) to)"
_SEE = "(?:view|see|look at|process|analy[sz]e|access|open|interpret|describe|assist|help|comply|provide|identify)"
_PICTURE = "(?:images?|pictures?|photos?)"
_REFUSAL = re.compile(
    rf"\W*(?:(?:sorry|unfortunately|apologies|i apologi[sz]e|{_I_AM} (?:so |very )?(?:sorry|afraid))\b"
    r"[^.]{0,40}?\b(?:i|but)\b"
    rf"|(?:as|{_I_AM}) an? (?:ai|large|language|text)\b"
    rf"|{_UNABLE}\b[^.]{{0,30}}\b{_SEE}\b[^.]{{0,30}}\b(?:{_PICTURE}|visuals?|content|files?|with th(?:at|is)|request)"
    r"\b"
    rf"|{_UNABLE} (?:(?:assist|comply|fulfill?)\b|help\b(?! but)|(?:do|describe) (?:that|this)\b)|i must decline\b"
    r"|(?:i'd|i would) be (?:happy|glad) to\b"
    r"|it (?:looks like|seems|appears)\b[^.]{0,20}(?:\bnot?\b|n't\b)[^.]{0,30}\b(?:attach|upload|provid|shar)ed\b"
    rf"|(?:no|there(?: is|'s) no) {_PICTURE}\b[^.]{{0,30}}\b(?:provided|attached|uploaded|given|here|included)\b"
    rf"|please (?:provide|upload|attach|share|send)\b[^.]{{0,30}}\b{_PICTURE}\b)",
    re.IGNORECASE,
)


class Said(NamedTuple):
    """An answer without the reasoning before it, and whether the reasoning was left unfinished."""

    answer: str
    unfinished: bool


def without_thoughts(completion: str) -> Said:
    r"""Return the text after the last closing reasoning tag, up to reasoning that was opened and never closed.

    The opening tag may be missing, because the chat templates of some models put it into the prompt.

    >>> without_thoughts("Perhaps a dog?</think>\na grainy picture")
    Said(answer='a grainy picture', unfinished=False)
    >>> without_thoughts("<think>Perhaps a")
    Said(answer='', unfinished=True)
    """
    rest = completion[max((closed.end() for closed in _CLOSED.finditer(completion)), default=0) :]
    opened = _OPENED.search(rest)
    answer = rest[: opened.start()] if opened else rest
    return Said(_TURNS.sub(" ", answer).strip(), opened is not None)


def is_refusal(text: str) -> bool:
    """Return True if a text says that a model cannot or will not process an image.

    >>> is_refusal("I'm sorry, but I can't view images."), is_refusal("A dark picture; I can't see the ground.")
    (True, False)
    """
    return _REFUSAL.match(text[:400].replace("\u2019", "'")) is not None
