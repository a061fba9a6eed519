"""Private helpers shared by the package; they may change in any release."""
