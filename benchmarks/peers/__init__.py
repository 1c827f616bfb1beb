"""The peers: other job queues doing the job of `benchmarks.plain`, each as its documentation says.

They live in an environment of their own, `.venv-bench`, with `requirements.lock`.
"""
