"""JSON from outside is parsed within bounds, and every mistake in it is a ValueError."""

import pytest

from ipo_dspy._internal.json_input import MAX_DEPTH, parse_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_unicode_encoding_is_read(encoding: str) -> None:
    assert parse_json('{"name": "caf\u00e9"}'.encode(encoding)) == {"name": "caf\u00e9"}


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 100_000])
@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_bounded(depth: int, begin: bytes, end: bytes) -> None:
    data = begin * depth + b"1" + end * depth
    if depth == MAX_DEPTH:
        parse_json(data)
        return
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        parse_json(data)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"1" * 5000, b'"' + b"a" * 90 + b'"'])
def test_whatever_cannot_be_used_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # of many kinds
        parse_json(data, limit=80 if data.startswith(b'"') else None)
