import pytest
import torch

from mmpfb.core.selection import Selection
from mmpfb.errors import EstimatorStateError
from mmpfb.selectors import PFB, Needs, Selector, Uniform, base, build_selector, register_selector


class First(Selector):
    """The smallest selector there can be."""

    def select(self, features, num_retained, generator):
        return Selection(torch.arange(num_retained))


@pytest.fixture
def no_registration_left(monkeypatch):
    monkeypatch.setattr(base, '_SELECTORS', dict(base._SELECTORS))


def test_a_configuration_finds_a_selector_by_name():
    assert type(build_selector({'type': 'PFB'})) is PFB
    assert type(build_selector({'type': 'Uniform'})) is Uniform


def test_arguments_reach_the_selector_and_the_configuration_is_not_changed():
    config = {'type': 'PFB', 'num_centroids': 32, 'temperature': 2}
    selector = build_selector(config)
    assert (selector.num_centroids, selector.temperature) == (32, 2.0)
    assert config == {'type': 'PFB', 'num_centroids': 32, 'temperature': 2}


@pytest.mark.parametrize('name', ['pfb', 'GradMatch', None])
def test_an_unknown_selector_is_refused_with_the_list_of_known_ones(name):
    known = r"\['DivBS', 'HighLoss', 'PFB', 'Uniform'\]"
    message = rf'selector `type` to be one of {known}, but got {name!r}\.'
    with pytest.raises(ValueError, match=message):
        build_selector({'type': name})


@pytest.mark.parametrize('name', [['PFB'], 3])
def test_a_type_that_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match='selector `type` to be one of'):
        build_selector({'type': name})


def test_a_missing_type_is_refused():
    with pytest.raises(ValueError, match='selector `type` to be one of .* but got None'):
        build_selector({'num_centroids': 32})


def test_an_unknown_argument_is_refused_by_its_name():
    message = r"'PFB' to be among .*'num_centroids'.* got \['centroids'\]"
    with pytest.raises(ValueError, match=message):
        build_selector({'type': 'PFB', 'centroids': 3})


def test_an_argument_for_a_selector_without_any_is_refused():
    with pytest.raises(ValueError, match=r"'Uniform' to be among \[\], but got \['dim'\]"):
        build_selector({'type': 'Uniform', 'dim': 3})


def test_a_value_out_of_range_keeps_its_own_message():
    with pytest.raises(ValueError, match='`num_centroids` to be an integer of at least 2'):
        build_selector({'type': 'PFB', 'num_centroids': 1})


def test_a_registered_selector_is_found_and_listed(no_registration_left):
    assert register_selector(First) is First
    assert type(build_selector({'type': 'First'})) is First
    with pytest.raises(ValueError, match=r"\['DivBS', 'First', 'HighLoss', 'PFB', 'Uniform'\]"):
        build_selector({'type': 'second'})
    # Once more is no conflict.
    register_selector(First)


def test_a_name_cannot_be_taken_twice(no_registration_left):
    other = type('PFB', (First,), {})
    with pytest.raises(ValueError, match="new selector name, but 'PFB' is registered already"):
        register_selector(other)
    assert type(build_selector({'type': 'PFB'})) is PFB


def test_a_selector_without_state_needs_nothing_else():
    selector = First()
    selector.prepare(num_channels=8)
    selector.observe(torch.ones(2, 8))
    assert selector.ready and selector.dim is None and selector.needs is Needs.FEATURES
    assert selector.state_dict() == {} and selector.metrics() == {}
    selector.load_state_dict({})


def test_a_selector_without_state_refuses_one():
    with pytest.raises(EstimatorStateError, match=r"empty state for First, but got \['dim'\]"):
        First().load_state_dict({'dim': 3})


def test_the_base_class_chooses_nothing():
    with pytest.raises(TypeError, match='abstract'):
        Selector()
