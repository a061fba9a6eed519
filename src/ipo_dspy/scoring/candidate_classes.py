"""Candidate classes of each image, for data in which they differ from image to image.

A table of images by classes would be a gigabyte for a million images and a thousand classes. Most images share their
candidates, so each distinct set is stored once, as class indices, and the table is built for one block at a time.

Letters: N images, n images of a block, C classes, S distinct sets, K members of all sets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CandidateClasses:
    """The classes that each of N images may be predicted as.

    Attributes:
        which: [N], index of the set of each image.
        begins: [S + 1], offset of each set in `members`.
        members: [K], class indices, set after set.
        classes: number of classes, C.

    >>> allowed = CandidateClasses.of([("cat", "dog"), ("emu",), ("cat", "dog")], {"cat": 0, "dog": 1, "emu": 2})
    >>> allowed.forbidden(slice(1, 3))
    tensor([[ True,  True, False],
            [False, False,  True]])
    """

    which: Tensor
    begins: Tensor
    members: Tensor
    classes: int

    @classmethod
    def of(cls, choices: Iterable[Sequence[str]], index: dict[str, int]) -> "CandidateClasses":
        """Build from the candidate names of each image and the class index of every name."""
        sets: dict[tuple[str, ...], int] = {}
        which = [sets.setdefault(tuple(names), len(sets)) for names in choices]
        begins = torch.tensor([0, *map(len, sets)]).cumsum(0)
        members = torch.tensor([index[name] for names in sets for name in names], dtype=torch.long)
        return cls(torch.tensor(which, dtype=torch.long), begins, members, len(index))

    def __len__(self) -> int:
        return len(self.which)

    def forbidden(self, rows: slice, *, out: Tensor | None = None) -> Tensor:
        """Return [n, C] bool: True where an image of these rows must not be predicted as a class."""
        sets, position = torch.unique(self.which[rows], return_inverse=True)
        return torch.index_select(self._excluded(sets), 0, position, out=out)

    def _excluded(self, sets: Tensor) -> Tensor:
        """Return [len(sets), C] bool: True for the classes that are not in a set."""
        sizes = self.begins[sets + 1] - self.begins[sets]
        rows = torch.repeat_interleave(sizes)  # one per member
        steps = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]  # index of the member within its set
        table = torch.ones(len(sets), self.classes, dtype=torch.bool)
        table[rows, self.members[self.begins[sets][rows] + steps]] = False
        return table
