"""Numbers with what they count, for messages."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an ending unless there is one.

    >>> counted(1, "template"), counted(0, "LLM call"), counted(2, "training class")
    ('1 template', '0 LLM calls', '2 training classes')
    """
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
