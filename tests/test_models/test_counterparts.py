"""Models and the models that prune in their place."""

import pytest
from mmengine.registry import init_default_scope
from mmpretrain.models import ImageClassifier
from mmseg.models import CascadeEncoderDecoder, EncoderDecoder

from mmpfb.models import PFBCascadeEncoderDecoder, PFBEncoderDecoder, PFBImageClassifier
from mmpfb.models.counterparts import (
    pruning_class,
    pruning_type,
    resolve_model,
    stock_type,
)

PAIRS = {
    'mmseg.EncoderDecoder': 'mmpfb.PFBEncoderDecoder',
    'mmseg.CascadeEncoderDecoder': 'mmpfb.PFBCascadeEncoderDecoder',
    'mmpretrain.ImageClassifier': 'mmpfb.PFBImageClassifier',
    'mmpretrain.TimmClassifier': 'mmpfb.PFBTimmClassifier',
    'mmpretrain.HuggingFaceClassifier': 'mmpfb.PFBHuggingFaceClassifier',
}


class OwnPruningModel(PFBEncoderDecoder):
    pass


@pytest.mark.parametrize(('stock', 'pruning'), PAIRS.items())
def test_names_go_there_and_back(stock, pruning):
    assert pruning_type(stock) == pruning_type(pruning) == pruning
    assert stock_type(stock) == stock_type(pruning) == stock
    # A bare name is one of the default scope and stays as it is.
    scope, name = stock.split('.')
    init_default_scope(scope)
    assert pruning_type(name) == pruning
    assert stock_type(name) == name


def test_classes():
    # The nearest one: a cascade is an encoder and decoder as well.
    assert pruning_class(CascadeEncoderDecoder) is PFBCascadeEncoderDecoder
    assert pruning_class(EncoderDecoder) is PFBEncoderDecoder
    assert pruning_class('mmpretrain.ImageClassifier') is PFBImageClassifier
    assert stock_type(EncoderDecoder) is EncoderDecoder
    assert pruning_type(EncoderDecoder) == 'mmpfb.PFBEncoderDecoder'
    # A user's own model prunes already.
    assert pruning_type(OwnPruningModel) is OwnPruningModel
    assert stock_type(OwnPruningModel) == 'mmseg.EncoderDecoder'


def test_a_name_is_looked_up_in_a_scope():
    assert resolve_model('ImageClassifier', 'mmpretrain') is ImageClassifier
    assert resolve_model(EncoderDecoder, 'mmpretrain') is EncoderDecoder
    assert pruning_class('EncoderDecoder', 'mmseg') is PFBEncoderDecoder


@pytest.mark.parametrize('kind', ['mmseg.DepthEstimator', 'mmseg.Unknown'])
def test_a_model_without_a_counterpart_is_refused(kind):
    message = f"prunes or one of .*EncoderDecoder, .*ImageClassifier.*, but got '{kind}'"
    with pytest.raises(TypeError, match=message):
        pruning_type(kind)
