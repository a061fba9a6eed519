"""Import LiteLLM without fetching its price list and without its debug messages."""

import os
from typing import Any


def keep_prices_local() -> None:
    """Make LiteLLM use its bundled price list instead of fetching one; call it before LiteLLM is imported."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def import_litellm() -> Any:
    """Return LiteLLM, imported on first use."""
    keep_prices_local()
    import litellm

    litellm.suppress_debug_info = True  # otherwise it prints hints to stdout
    return litellm
