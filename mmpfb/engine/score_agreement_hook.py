"""Measures in a training run whether a cheaper scoring pass would keep the same images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmpfb.analysis.agreement import overlap, rank_correlation
from mmpfb.core.checks import check_share
from mmpfb.core.importance import lowest
from mmpfb.core.pooling import pool_features
from mmpfb.core.randomness import generator_for
from mmpfb.engine.pruning_schedule_hook import pruning_model
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.models.rescore import ScoringPass
from mmpfb.pruner import Phase
from mmpfb.registry import HOOKS
from mmpfb.selectors import PFB, build_selector

RECORD_FILE = 'score_agreement.json'
REFERENCE = 'reuse'


@HOOKS.register_module()
class ScoreAgreementHook(Hook):
    """Scores every batch in evaluation mode at several scales and compares with ``'reuse'``.

    The training itself is that of ``mode='reuse'`` and is not changed. Every scale has an estimator
    of its own, which learns from the images that *it* would have kept, and gets the same random
    numbers. Writes ``score_agreement.json``, for every pruned iteration in comparison with the run:
    the overlap of the kept images, the overlap of the images that density alone would keep (the
    shared random numbers have no part in it), and the rank correlation of the log densities. The
    record is not resumed. The passes take time, so the times of such a run mean nothing.

    Args:
        scales: Scales of the scoring pass.

    Raises:
        ValueError: If a scale is out of (0, 1].
    """

    def __init__(self, scales: Sequence[float] = (1.0, 0.5, 0.25)) -> None:
        self.scales = [check_share('scales', scale) for scale in scales]
        self._passes: dict[str, ScoringPass] = {}
        self._selectors: dict[str, PFB] = {}
        self._features: dict[str, Tensor] = {}
        self._scoring = False
        self._record: list[dict[str, Any]] = []
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the images and the features at the cut.

        Raises:
            TypeError: If the model does not prune by PFB with ``mode='reuse'``.
        """
        model = pruning_model(runner)
        selector = model.pruner.selector
        if not isinstance(selector, PFB) or model.pruning_mode != REFERENCE:
            raise TypeError(
                "Expected a model that prunes by PFB with mode='reuse' to compare with, but got "
                f'{type(selector).__name__} with mode={model.pruning_mode!r}.'
            )
        for name in (REFERENCE, *(f'{scale:g}' for scale in self.scales)):
            own = build_selector(model.pruning_settings.selector)
            assert isinstance(own, PFB)
            own.prepare(selector.estimator.dim)
            self._selectors[name] = own
        self._passes = {f'{scale:g}': model.scoring_pass(scale) for scale in self.scales}

        def score(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if model.training and torch.is_grad_enabled():
                self._score(model, args[0] if args else kwargs['inputs'])

        def remember(_: nn.Module, args: Any, output: Any) -> None:
            if not self._scoring and torch.is_grad_enabled():
                self._features[REFERENCE] = self._pool(model, output)

        cut = model.get_submodule(model.pruning_location)
        self._handles = [
            # On the whole model: the batch is cut while its encoder runs.
            model.register_forward_pre_hook(score, with_kwargs=True),
            # Before the hook that cuts the batch.
            cut.register_forward_hook(remember, prepend=True),
        ]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Let every estimator choose and learn, and compare the choices."""
        pruner = pruning_model(runner).pruner
        features, self._features = self._features, {}
        if pruner.phase is Phase.IDLE or REFERENCE not in features:
            return
        kept = pruner.last_kept
        if kept is None or not all(selector.ready for selector in self._selectors.values()):
            for name, selector in self._selectors.items():
                # As the modes themselves do it: 'rescore' learns from where pruning is due.
                if name == REFERENCE or pruner.phase is Phase.PRUNE:
                    selector.observe(
                        features[name]
                        if kept is None or name != REFERENCE
                        else features[name][kept]
                    )
            return
        entry: dict[str, Any] = {
            'iteration': runner.iter,
            'seen': len(features[REFERENCE]),
            'kept': len(kept),
        }
        densities: dict[str, Tensor] = {}
        rarest: dict[str, list[int]] = {}
        for name, selector in self._selectors.items():
            # The random numbers of the run itself.
            generator = generator_for(pruner.seed, get_rank(), pruner.iteration - 1)
            choice = selector.select(features[name], len(kept), generator).keep
            densities[name] = selector.estimator.log_density(features[name])
            rarest[name] = lowest(densities[name], len(kept)).tolist()
            entry[name] = {
                'overlap': overlap(choice.tolist(), kept),
                'density_overlap': overlap(rarest[name], rarest[REFERENCE]),
                'rank_correlation': rank_correlation(densities[name], densities[REFERENCE]),
            }
            selector.observe(features[name].index_select(0, choice))
        self._record.append(entry)

    def after_train(self, runner: Runner) -> None:
        """Write the record into the work directory."""
        for handle in self._handles:
            handle.remove()
        if is_main_process():
            path = Path(runner.work_dir) / RECORD_FILE
            path.write_text(json.dumps(self._record) + '\n')

    @torch.no_grad()
    def _score(self, model: BatchPruningMixin, images: Tensor) -> None:
        self._scoring = True
        try:
            for name, scoring in self._passes.items():
                self._features[name] = self._pool(model, scoring.output(model, images))
        finally:
            self._scoring = False

    @staticmethod
    def _pool(model: BatchPruningMixin, output: Any) -> Tensor:
        pruner = model.pruner
        return pool_features(output, pruner.selector.dim, pruner.channel_axis).detach()
