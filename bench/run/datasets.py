"""The data sets of a configuration, each on its own: one that cannot be opened costs itself."""

from __future__ import annotations

from sisbench.config import RunConfig
from sisbench.core.adapter_file import as_user_error, described
from sisbench.core.errors import UserError
from sisbench.data import Dataset, open_dataset


def open_datasets(config: RunConfig) -> tuple[dict[str, Dataset], dict[str, str], dict[str, str]]:
    """(data sets, their fingerprints, why others cannot be opened), by label.

    Raises:
        UserError: none can be opened.
    """
    found: dict[str, Dataset] = {}
    fingerprints: dict[str, str] = {}
    errors: dict[str, UserError] = {}
    for d in config.datasets:
        try:
            dataset = open_dataset(d.name, **d.arguments)
            fingerprints[d.shown] = dataset.fingerprint()
            found[d.shown] = dataset
        except Exception as error:  # a data set is anybody's: it costs itself its cells
            errors[d.shown] = as_user_error(error)
    if len(errors) == 1 and not found:
        raise next(iter(errors.values()))
    closed = {label: f"data set {label}: {described(error)}" for label, error in errors.items()}
    if not found:
        raise UserError("no data set can be opened:\n  " + "\n  ".join(closed.values()))
    return found, fingerprints, closed
