"""The record of a run: events, journal, ledger, and session."""
