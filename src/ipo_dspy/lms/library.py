"""LiteLLM as this package imports it: no price list is fetched, and no advice is printed."""

import os
from typing import Any


def keep_prices_local() -> None:
    """Have LiteLLM, which is imported later, use the price list that it brings instead of fetching one."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def import_litellm() -> Any:
    """Return LiteLLM, imported where it is first needed."""
    keep_prices_local()
    import litellm

    litellm.suppress_debug_info = True  # else it prints advice on stdout
    return litellm
