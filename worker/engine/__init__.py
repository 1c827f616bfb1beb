"""The life of a job: enqueue → relay → claim → render → call → validate → settle."""
