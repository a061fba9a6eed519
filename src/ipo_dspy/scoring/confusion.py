"""Count which classes are taken for which."""

from collections import Counter
from collections.abc import Sequence


def confusion_matrix(
    labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str], *, most: int
) -> tuple[list[str], list[list[int]]]:
    """Return at most `most` of the classes, those with most errors, and their counts: a row for each true class.

    Errors of a class are images of it that are taken for another, and others that are taken for it. A row has a column
    for each returned class and a last one for all others; the classes keep their order.

    >>> confusion_matrix(["cat", "cat", "dog", "owl"], ["cat", "dog", "dog", "owl"], ["cat", "dog", "owl"], most=2)
    (['cat', 'dog'], [[1, 1, 0], [0, 1, 0]])
    """
    pairs = Counter(zip(labels, predicted, strict=True))
    errors: Counter[str] = Counter()
    for (label, other), count in pairs.items():
        if label != other:
            errors.update({label: count, other: count})
    kept = set(sorted(classes, key=lambda name: -errors[name])[:most])
    shown = [name for name in classes if name in kept]
    totals, rows = Counter(labels), [[pairs[name, other] for other in shown] for name in shown]
    return shown, [[*row, totals[name] - sum(row)] for name, row in zip(shown, rows, strict=True)]
