"""The finished run that the fault tests disturb, and the counts that they report."""

from __future__ import annotations

import pytest
from harness import Bench, make_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """As ``bench``, with one cell of two images: every kind of file, few of each."""
    tasks = [{"shape_transfer": ["hair"]}]
    return make_bench(tmp_path_factory.mktemp("small"), 2, tasks=tasks, metrics=["miou"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was done, as docs/reliability.md says it."""
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", ()):
            if name == "faults":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")
