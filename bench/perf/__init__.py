"""Speed comparisons with what researchers run today: ``python -m sisbench.perf scoring``."""
