"""Errors that the HTTP client raises itself, each with a hint for fixing it."""

from dspy.utils.exceptions import LMConfigurationError, LMProviderError, LMRateLimitError


class RedirectError(LMConfigurationError):
    """The server redirects to another host, which would receive the key and the prompt."""

    hint = "set api_base to the address that should receive the requests"


class UnreadableAnswerError(LMProviderError):
    """The response is not that of a language model, or is too long."""

    hint = "check that api_base names a language model's API: most servers want it to end in /v1"


class RetryLaterError(LMRateLimitError):
    """The server asks for a longer pause than a run allows."""

    hint = "run it again after that time, or use another model"


class EmptyGreetingError(LMConfigurationError):
    """The model uses up its token limit before it writes anything."""

    hint = "raise its setting max_tokens, or disable its thinking"
