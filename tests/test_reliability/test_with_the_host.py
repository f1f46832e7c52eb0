"""What MMEngine can do beside a training is not disturbed by pruning, and does not disturb it."""

import pytest
import torch

from tests.test_engine.tiny_run import run


def accumulation(cfg):
    cfg.optim_wrapper.accumulative_counts = 3


def clipped_gradients(cfg):
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.1)


def moving_average(cfg):
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, begin_iter=2, update_buffers=True)]


def moving_average_from_the_start(cfg):
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]


def checkpointed_blocks(cfg):
    cfg.model.backbone.with_cp = True


def checkpointed_stages(cfg):
    cfg.activation_checkpointing = [f'backbone.layer{number}' for number in (1, 2, 3, 4)]


def compiled(cfg):
    # Eager code behind the compiler's front end: its numbers are those of an ordinary step.
    cfg.compile = dict(backend='eager')


def joined_data(cfg):
    parts = [dict(type='TinyScenes', length=length) for length in (11, 13)]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)


def repeated_data(cfg):
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=3, dataset=dict(type='TinyScenes', length=9)
    )


def scaled_learning_rate(cfg):
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=16)


def several_workers(cfg):
    cfg.train_dataloader.num_workers = 2
    cfg.train_dataloader.persistent_workers = True


CHANGES = [
    accumulation, clipped_gradients, moving_average, moving_average_from_the_start,
    checkpointed_blocks, checkpointed_stages, compiled, joined_data, repeated_data,
    scaled_learning_rate, several_workers,
]
WINDOW = dict(begin=0.0, end=1.0)
ITERATIONS, BATCH_SIZE = 8, 4

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    # The compiler keeps code per class and by default guards it by no hooks: code compiled for a
    # stock model serves a pruned one of the same classes, without the cut.
    torch._dynamo.reset()


@pytest.mark.parametrize('mode', ['reuse', 'rescore'])
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_it_goes_together_with_pruning(tmp_path, change, mode):
    pruning = dict(mode=mode)
    runner = run(tmp_path, change, max_iters=ITERATIONS, pruning=pruning, hook=WINDOW)
    pruner = runner.model.pruner
    assert pruner.images_seen == ITERATIONS * BATCH_SIZE
    # Two batches become the eight centroids; with `rescore` as well, as pruning begins at once.
    assert pruner.images_kept == 2 * BATCH_SIZE + (ITERATIONS - 2) * BATCH_SIZE // 2
    # Momentum is kept for every parameter that ever got a gradient.
    momentum = runner.optim_wrapper.optimizer.state
    assert all('momentum_buffer' in momentum[value] for value in runner.model.parameters())
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_without_pruning_it_is_the_stock_run(tmp_path, change):
    def train(name, **settings):
        runner = run(tmp_path / name, change, max_iters=ITERATIONS, **settings)
        saved = torch.load(tmp_path / name / f'iter_{ITERATIONS}.pth', weights_only=False)
        return runner.model.state_dict(), saved

    stock, stock_saved = train('stock', pruning=False, hook=False)
    with pytest.warns(UserWarning, match='ratio=0 prunes no image'):
        ours, saved = train('ours', pruning=dict(ratio=0.0), hook=WINDOW)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[key], stock[key]) for key in stock)
    assert saved['state_dict'].keys() == stock_saved['state_dict'].keys()


def assert_compiling_changes_nothing(folder, change=None, **settings):
    """Train with and without the compiler, and return the runner that was compiled."""

    def both(cfg):
        compiled(cfg)
        if change is not None:
            change(cfg)

    eager = run(folder / 'eager', change, **settings).model.state_dict()
    runner = run(folder / 'compiled', both, **settings)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, eager[key]), key
    return runner


@pytest.mark.parametrize('mode', ['reuse', 'rescore'])
def test_compiled_code_notices_where_pruning_begins_and_ends(tmp_path, mode):
    runner = assert_compiling_changes_nothing(
        tmp_path, max_iters=12, pruning=dict(mode=mode), hook=dict(begin=0.25, end=0.75)
    )
    # Six iterations prune; with `rescore` the first two of them fill the eight centroids.
    pruned_iterations = 6 if mode == 'reuse' else 4
    assert runner.model.pruner.images_kept == 12 * BATCH_SIZE - pruned_iterations * 2


def test_compiled_code_weighs_images(tmp_path):
    def sampler(cfg):
        cfg.train_dataloader.sampler = dict(type='mmpfb.InfoBatch', infinite=True)
        cfg.default_hooks.image_losses = dict(type='mmpfb.ImageLossesHook')

    runner = assert_compiling_changes_nothing(
        tmp_path, sampler, max_iters=16, pruning=False, hook=False
    )
    lengths = runner.train_dataloader.sampler.lengths
    assert len(lengths) > 1 and min(lengths) < 24
