"""The batch lane: jobs that can wait a day, in Message Batches at half the price.

See docs/batches.md for what holds and why.
"""
