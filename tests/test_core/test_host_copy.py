"""Values are copied to the host at once and waited for only when they are asked for."""

import copy
import pickle

import pytest
import torch

from mmpfb.core.host_copy import HostCopy


def test_values():
    assert HostCopy(torch.tensor([4, 1])).tolist() == [4, 1]


@pytest.mark.parametrize('clone', [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_copies(clone):
    assert clone(HostCopy(torch.tensor([4, 1]))).tolist() == [4, 1]


class FakeCuda:
    """A tensor on a device that notes when the host waits for it."""

    is_cuda = True
    device = torch.device('cpu')

    def __init__(self, events):
        self.events = events

    def to(self, device, non_blocking):
        assert (device, non_blocking) == ('cpu', True)
        self.events.append('copy')
        return torch.tensor([7])


def test_a_device_is_waited_for_once_and_only_when_asked(monkeypatch):
    events = []

    class Event:
        def synchronize(self):
            events.append('wait')

    class Stream:
        def record_event(self):
            events.append('record')
            return Event()

    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: Stream())
    values = HostCopy(FakeCuda(events))
    assert events == ['copy', 'record']
    assert values.tolist() == values.tolist() == [7]
    assert events == ['copy', 'record', 'wait']


@pytest.mark.gpu
def test_on_a_gpu():
    assert HostCopy(torch.tensor([4, 1], device='cuda')).tolist() == [4, 1]
