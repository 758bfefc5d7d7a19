"""`python -m citywatch` is the command line."""

from citywatch.cli import main

main()
