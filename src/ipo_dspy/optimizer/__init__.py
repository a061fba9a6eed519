"""The optimizer: `IPO` and what it is made of. Names are loaded when they are first used."""

from typing import TYPE_CHECKING, Any

__all__ = ["IPO"]

if TYPE_CHECKING:
    from ipo_dspy.optimizer.ipo import IPO as IPO


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ipo_dspy.optimizer import ipo

        return getattr(ipo, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
