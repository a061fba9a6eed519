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
class Allowed:
    """The classes that each of N images may be given; a slice of it is a table [n, C] of bool.

    Attributes:
        which: [N], the set of each image.
        begins: [S + 1], where each set begins among the members.
        members: [K], class indices, set after set.
        classes: how many there are, C.

    >>> Allowed.of([("cat", "dog"), ("emu",), ("cat", "dog")], {"cat": 0, "dog": 1, "emu": 2})[1:3]
    tensor([[False, False,  True],
            [ True,  True, False]])
    """

    which: Tensor
    begins: Tensor
    members: Tensor
    classes: int

    @classmethod
    def of(cls, choices: Iterable[Sequence[str]], index: dict[str, int]) -> "Allowed":
        """From the names that each image may be given, and the class index of every name."""
        sets: dict[tuple[str, ...], int] = {}
        which = [sets.setdefault(tuple(names), len(sets)) for names in choices]
        begins = torch.tensor([0, *map(len, sets)]).cumsum(0)
        members = torch.tensor([index[name] for names in sets for name in names], dtype=torch.long)
        return cls(torch.tensor(which, dtype=torch.long), begins, members, len(index))

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, part: slice) -> Tensor:
        sets = self.which[part]  # [n]
        sizes = self.begins[sets + 1] - self.begins[sets]  # [n]
        rows = torch.repeat_interleave(sizes)  # one for each class that an image of the block may be given
        steps = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]  # the place of the class in its set
        mask = torch.zeros(len(sets), self.classes, dtype=torch.bool)  # [n, C]
        mask[rows, self.members[self.begins[sets][rows] + steps]] = True
        return mask
