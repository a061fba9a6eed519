"""Faults of a request that the client itself finds, each with what to do about it."""

from dspy.utils.exceptions import LMConfigurationError, LMProviderError, LMRateLimitError


class RedirectError(LMConfigurationError):
    """The server sends requests on to another address, which would see the key and the prompt."""

    hint = "set api_base to an address of yours that answers by itself, if that other one is meant"


class UnreadableAnswerError(LMProviderError):
    """The server answered with something that is no answer of a language model, or with too much."""

    hint = "check that api_base names a language model's API: most servers want it to end in /v1"


class RetryLaterError(LMRateLimitError):
    """The server asks for a longer pause than a run waits."""

    hint = "run it again after that time, or use another model"


class EmptyGreetingError(LMConfigurationError):
    """The model spends its whole token limit before it writes anything."""

    hint = "raise its setting max_tokens, or disable its thinking"
