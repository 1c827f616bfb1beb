"""`python -m worker.cli`: the command where it is not on the path."""

from worker.cli import main

main()
