"""The data set of the last run, for the next one: reading thousands of images takes seconds."""

from __future__ import annotations

from cwmp.config import TrainingConfig
from cwmp.training.datasets import Dataset
from cwmp.training.federation import configured_dataset

DATA_SETTINGS = ("dataset", "seed", "data_dir", "train_samples", "test_samples")
"""Settings that samples depend on."""


class LastDataset:
    """Keeps the samples that were asked for last, and no others."""

    def __init__(self) -> None:
        self._settings: tuple[object, ...] | None = None
        self._data: Dataset | None = None

    def of(self, config: TrainingConfig) -> Dataset:
        """The data that the settings name, read only if the last ones were others.

        Raises:
            UsageError: there is no such data set, or it is not where it is said to be.
            InvalidFileError: a file of the data set is broken.
        """
        settings = tuple(getattr(config, name) for name in DATA_SETTINGS)
        if self._data is None or settings != self._settings:
            self._data = None  # Two of them may be more than the memory holds.
            self._data = configured_dataset(config)
            self._settings = settings
        return self._data
