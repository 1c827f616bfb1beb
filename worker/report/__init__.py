"""The weekly review: what was spent, what changed it, and what to do about it."""
