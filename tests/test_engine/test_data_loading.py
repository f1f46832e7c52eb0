"""The data loader of a config is timed as it is, and nothing is downloaded."""

import time

import pytest
import torch
from mmengine.config import ConfigDict
from torch.utils.data import Dataset

from mmpfb.engine.data_loading import seconds_per_batch


class Numbers(Dataset):
    """Takes a second of the false clock for every image."""

    clock = 0.0

    def __init__(self, length=100, download=True):
        if download:
            raise AssertionError('would download')
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        Numbers.clock += 1.0
        return torch.tensor(index)


class OwnNumbers(Numbers):
    """Passes on what it does not know."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Wrapper(Dataset):
    def __init__(self, dataset):
        self.dataset = dataset['type'](**{k: v for k, v in dataset.items() if k != 'type'})

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


@pytest.fixture(autouse=True)
def false_clock(monkeypatch):
    monkeypatch.setattr(Numbers, 'clock', 0.0)
    monkeypatch.setattr(time, 'perf_counter', lambda: Numbers.clock)


def loader(dataset, **arguments):
    sampler = {'type': 'DefaultSampler', 'shuffle': True}
    return ConfigDict(
        {'batch_size': 2, 'num_workers': 0, 'sampler': sampler, 'dataset': dataset, **arguments}
    )


def test_the_time_is_that_of_a_batch_of_the_size_asked_for():
    config = loader({'type': OwnNumbers})
    assert seconds_per_batch(config, batch_size=4) == 4.0
    assert seconds_per_batch(config, batch_size=8, batches=2) == 8.0
    # The argument is left as it was.
    assert config.batch_size == 2
    assert 'download' not in config.dataset


def test_a_wrapped_data_set_does_not_download_either():
    config = loader({'type': Wrapper, 'dataset': {'type': OwnNumbers}})
    assert seconds_per_batch(config, batch_size=4) == 4.0


def test_a_data_set_that_ends_early_is_enough_if_a_batch_is_left():
    config = loader({'type': Numbers, 'length': 8})
    assert seconds_per_batch(config, batch_size=4) == 4.0


def test_a_data_set_of_one_batch_is_refused():
    config = loader({'type': Numbers, 'length': 4})
    with pytest.raises(ValueError, match='more than 1 batches of 4 images'):
        seconds_per_batch(config, batch_size=4)


def test_wrong_batches_are_refused():
    with pytest.raises(ValueError, match='`batches` to be an integer of at least 1, but got 0'):
        seconds_per_batch(loader({'type': Numbers}), batch_size=4, batches=0)
