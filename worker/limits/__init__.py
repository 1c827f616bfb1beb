"""The fleet-wide rate limiter: which request may be sent, and when. See docs/limits.md."""
