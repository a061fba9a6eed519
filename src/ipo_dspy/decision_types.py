"""The one door to DSPy's decision types, which are experimental: everything else works without them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

try:
    from dspy.experimental import Choice
except ImportError:
    Choice = None


def label_type(labels: Sequence[str]) -> Any:
    """Return the annotation of an output that is one of these labels: a plain string, and a decision for DSPy.

    >>> label_type(["cat", "dog"]).__args__[0].__args__
    ('cat', 'dog')
    """
    return str if Choice is None else Annotated[Literal[*labels], Choice]
