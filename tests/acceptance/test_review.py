"""Reviews in a real browser: by keyboard, by several people, against hostile texts."""
