"""What requests to language models cost."""

from dspy.utils.usage_tracker import UsageTracker


def total_tokens(usage: UsageTracker) -> int:
    """Tokens of all requests that were tracked, over all models; answers from DSPy's cache cost none."""
    counts = (entry.get("total_tokens") for entry in usage.get_total_tokens().values())
    return sum(count for count in counts if isinstance(count, int))
