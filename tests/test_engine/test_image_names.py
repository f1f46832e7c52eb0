"""Images of a batch and of its data set go by the same names."""

from types import SimpleNamespace

import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.structures import BaseDataElement

from mmpfb.engine.image_names import image_name, image_names

from .numbers_run import Numbers


@pytest.mark.parametrize('has_paths', [True, False])
def test_samples_have_the_names_of_their_index(has_paths):
    dataset = Numbers(length=4, first=7, has_paths=has_paths)
    expected = ['7.png', '8.png', '9.png', '10.png'] if has_paths else ['0', '1', '2', '3']
    assert image_names(dataset) == expected
    assert [image_name(dataset[index]['data_samples']) for index in range(4)] == expected


def test_wrapped_data_sets():
    first, second = Numbers(length=2), Numbers(length=2, first=2)
    assert image_names(ConcatDataset([first, second])) == ['0.png', '1.png', '2.png', '3.png']
    assert image_names(RepeatDataset(first, 2)) == ['0.png', '1.png'] * 2
    assert image_names(RepeatDataset(Numbers(length=2, has_paths=False), 2)) == ['0', '1'] * 2
    # The same file in two data sets is the same image.
    assert image_names(ConcatDataset([first, first])) == ['0.png', '1.png'] * 2


def test_numbers_that_collide_are_refused():
    unnamed = Numbers(length=2, has_paths=False)
    joined = ConcatDataset([unnamed, unnamed])
    wrapper = type('Wrapper', (SimpleNamespace,), {'__len__': lambda self: len(self.dataset)})
    wrapped = wrapper(dataset=joined, get_data_info=joined.get_data_info)
    for dataset in (joined, wrapped):
        with pytest.raises(ValueError, match='joined data sets to have a name of its own'):
            image_names(dataset)


def test_data_without_names_is_refused():
    class Nameless:
        def __len__(self):
            return 1

        def get_data_info(self, index):
            return {'size': 3}

    with pytest.raises(TypeError, match='a data set with `get_data_info`'):
        image_names([1, 2])
    with pytest.raises(ValueError, match=r"index 0 has \['size'\]"):
        image_names(Nameless())
    with pytest.raises(ValueError, match="'img_path' or 'sample_idx' in their metainfo"):
        image_name(BaseDataElement(metainfo={'size': 3}))
