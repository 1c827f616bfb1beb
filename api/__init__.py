"""The HTTP gateway: enqueue, watch and cancel jobs from any language. Started by `claude-jobs api`.

docs/http.md describes it from outside.
"""
