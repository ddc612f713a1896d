"""Speed comparisons with what researchers run today: ``python -m bench.perf scoring``."""
