"""A simulated Claude: the Messages API over HTTP, with faults on demand and a billing ledger."""
