"""Questions about finished templates."""
