"""Which classes each image may be given, where that differs from image to image.

A table of images times classes would be a gigabyte for a million images and a thousand classes. Images mostly share
their choices, so each distinct set is kept once, as class indices, and the table is made for the images of a block.

Letters: N images, n images of a block, C classes, S distinct sets, K their members in all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CandidateClasses:
    """The classes that each of N images may be given.

    Attributes:
        which: [N], the set of each image.
        begins: [S + 1], where each set begins among the members.
        members: [K], class indices, set after set.
        classes: how many there are, C.

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
        """From the names that each image may be given, and the class index of every name."""
        sets: dict[tuple[str, ...], int] = {}
        which = [sets.setdefault(tuple(names), len(sets)) for names in choices]
        begins = torch.tensor([0, *map(len, sets)]).cumsum(0)
        members = torch.tensor([index[name] for names in sets for name in names], dtype=torch.long)
        return cls(torch.tensor(which, dtype=torch.long), begins, members, len(index))

    def __len__(self) -> int:
        return len(self.which)

    def forbidden(self, part: slice, *, out: Tensor | None = None) -> Tensor:
        """The classes that each image of a part must not be given, a table [n, C] of bool."""
        sets, place = torch.unique(self.which[part], return_inverse=True)
        return torch.index_select(self._left_out(sets), 0, place, out=out)

    def _left_out(self, sets: Tensor) -> Tensor:
        """The classes that are not in each of some sets, a table of bool with C columns."""
        sizes = self.begins[sets + 1] - self.begins[sets]
        rows = torch.repeat_interleave(sizes)  # one for each member
        steps = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]  # the place of the member in its set
        table = torch.ones(len(sets), self.classes, dtype=torch.bool)
        table[rows, self.members[self.begins[sets][rows] + steps]] = False
        return table
