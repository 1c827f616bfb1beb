"""Replies as they are written: published to Redis by workers, followed by any number of readers."""
