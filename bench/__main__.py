"""``python -m bench`` is ``sisbench``."""

from bench.cli import main

main()
