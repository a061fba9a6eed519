"""The schema of journals: its version, and the upgrade of events of older schemas."""

from typing import Any

SCHEMA = 3
"""Recorded with each run. Schema 2 has other names for the same fields; a run of schema 1 can only be shown."""

_KINDS = {
    "run": "run_started",
    "resume": "run_resumed",
    "search": "search_started",
    "answer": "lm_response",
    "fault": "error",
    "budget": "limit_reached",
    "chosen": "selected",
    "changed": "prediction_changed",
    "end": "run_finished",
}
_FIELDS = {
    "search": {"data": "data_fingerprint", "validation_data": "validation_fingerprint"},
    "answer": {"question": "request_id", "cut": "truncated", "fault": "error", "elapsed": "run_seconds"},
    "step": {"elapsed": "run_seconds"},
    "budget": {"allowed": "limit_value"},
    "chosen": {"decided_by": "selected_on"},
    "evaluation": {"part": "class_split"},
    "changed": {"part": "class_split"},
}
_STATUSES = {"faults": "errors", "stopped": "interrupted"}


def upgrade(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of an older schema as one of this schema, and any other event unchanged.

    >>> upgrade({"event": "end", "status": "faults"})
    {'event': 'run_finished', 'status': 'errors'}
    """
    kind = event["event"]
    names = _FIELDS.get(kind, {})
    upgraded = {names.get(name, name): value for name, value in event.items()} | {"event": _KINDS.get(kind, kind)}
    if kind == "run" and event.get("schema") == 2:
        upgraded["schema"] = SCHEMA
    elif kind == "end" and isinstance(status := event.get("status"), str):
        upgraded["status"] = _STATUSES.get(status, status)
    return upgraded
