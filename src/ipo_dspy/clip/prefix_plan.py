"""Plan the shared prefixes of token lists: every distinct prefix is one node, computed once per layer.

In sorted order a list shares its first tokens with the one before. The rest of it is a run of new nodes, of which the
last is its end. Runs of the same depth and length are put side by side, so that a tower treats them as one batch.

Letters: M token lists, N nodes, B runs of a group, L tokens.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenList = tuple[int, ...]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Runs of nodes that begin at the same depth and have the same length, one after the other."""

    first: int  # first node of the first run
    count: int  # number of runs, B
    length: int  # nodes of each
    ancestors: Indices  # [B, depth], the nodes before each run, from the root on

    @property
    def depth(self) -> int:
        """Tokens before each run."""
        return int(self.ancestors.shape[1])


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """Nodes in the order of their groups, and the end of each list."""

    tokens: Indices  # [N], the token of each node
    positions: Indices  # [N], the number of tokens before it
    groups: tuple[PrefixGroup, ...]  # the runs; each list has one, whose last node is its end
    places: Indices  # [M], for each list the index of its run among all runs of all groups

    @property
    def nodes(self) -> int:
        """Distinct prefixes, N."""
        return len(self.tokens)


def plan(lists: Sequence[TokenList]) -> PrefixPlan:
    """Return the plan of distinct, sorted token lists.

    Raises:
        ValueError: the lists are not distinct or not sorted.

    >>> shared = plan([(1, 2, 3, 9), (1, 2, 9), (1, 4, 9)])
    >>> shared.nodes, [(group.depth, group.length, group.count) for group in shared.groups]
    (7, [(0, 4, 1), (1, 2, 1), (2, 1, 1)])
    """
    if any(before >= after for before, after in itertools.pairwise(lists)):
        raise ValueError("token lists must be distinct and sorted")
    shared = shared_tokens(lists)
    order = sorted(range(len(lists)), key=lambda i: (shared[i], len(lists[i])))
    paths = np.zeros((len(lists), max(map(len, lists), default=0)), dtype=np.int64)  # [M, L], nodes of each list
    tokens, positions = [np.zeros(sum(map(len, lists)) - sum(shared), dtype=np.int64) for _ in range(2)]
    begins, first = np.zeros(len(lists), dtype=np.int64), 0
    for i in order:
        begins[i], stop = first, first + len(lists[i]) - shared[i]
        tokens[first:stop], positions[first:stop] = lists[i][shared[i] :], np.arange(shared[i], len(lists[i]))
        first = stop
    for i, row in enumerate(lists):
        paths[i, : shared[i]] = paths[i - 1, : shared[i]]
        paths[i, shared[i] : len(row)] = np.arange(begins[i], begins[i] + len(row) - shared[i])
    groups = []
    for (depth, length), members in itertools.groupby(order, key=lambda i: (shared[i], len(lists[i]) - shared[i])):
        runs = list(members)
        groups.append(PrefixGroup(int(begins[runs[0]]), len(runs), length, paths[runs, :depth]))
    places = np.empty(len(lists), dtype=np.int64)
    places[order] = np.arange(len(lists))
    return PrefixPlan(tokens, positions, tuple(groups), places)


def shared_tokens(lists: Sequence[TokenList]) -> list[int]:
    """Return the number of leading tokens that each list shares with the one before it.

    >>> shared_tokens([(1, 2, 3), (1, 2, 4), (5,)])
    [0, 2, 0]
    """
    return [0, *itertools.starmap(_common, itertools.pairwise(lists))][: len(lists)]


def _common(one: TokenList, other: TokenList) -> int:
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


def chunks(lists: Sequence[TokenList], nodes: int) -> list[Sequence[TokenList]]:
    """Split sorted lists into chunks whose plans have about `nodes` nodes at most.

    >>> chunks([(1, 2, 3), (1, 2, 4), (1, 5, 6)], nodes=4)
    [[(1, 2, 3), (1, 2, 4)], [(1, 5, 6)]]
    """
    pieces: list[list[TokenList]] = []
    size = 0
    for row, common in zip(lists, shared_tokens(lists), strict=True):
        if not pieces or size + len(row) - common > nodes:
            pieces.append([])
            size = common  # a new piece computes the shared prefix once more
        pieces[-1].append(row)
        size += len(row) - common
    return list(pieces)
