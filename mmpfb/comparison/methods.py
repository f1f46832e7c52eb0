"""The methods that can be compared, and the configuration that each of them trains by."""

import ast
import copy
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict

from mmpfb.engine.run_length import with_iterations
from mmpfb.models.counterparts import pruning_type, stock_type


@dataclass(frozen=True)
class Method:
    """A way to spend less on a training.

    Attributes:
        name: What users call it.
        title: What it is called in tables.
        kind: ``'full'``: the plain training. ``'short'``: the plain training, with fewer
            iterations. ``'batch'``: prunes images of every batch. ``'epoch'``: leaves images out of
            an epoch.
        component: Type of the selector or sampler.
        options: Arguments of the selector or sampler.
    """

    name: str
    title: str
    kind: str
    component: str = ''
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and options, fit for a folder."""
        options = '-'.join(f'{key}={value}' for key, value in self.options.items())
        return f'{self.name}-{options}' if options else self.name

    @property
    def caption(self) -> str:
        """Title and options."""
        options = ', '.join(f'{key} {value}' for key, value in self.options.items())
        return f'{self.title} ({options})' if options else self.title


# Options of a method that prunes in the batch that are not those of its selector.
_SETTINGS = ('mode', 'score_scale', 'location', 'min_keep')

METHODS = {
    method.name: method
    for method in (
        Method('full', 'Full training', 'full'),
        Method('short', 'Shorter schedule', 'short'),
        Method('uniform', 'Uniform', 'batch', 'Uniform'),
        Method('pfb', 'PFB', 'batch', 'PFB'),
        Method('highloss', 'HighLoss', 'batch', 'HighLoss'),
        Method('divbs', 'DivBS', 'batch', 'DivBS'),
        Method('infobatch', 'InfoBatch', 'epoch', 'mmpfb.InfoBatch'),
        Method('ucb', 'UCB', 'epoch', 'mmpfb.UCB'),
        Method('epsilon-greedy', 'Epsilon-greedy', 'epoch', 'mmpfb.EpsilonGreedy'),
        Method('uniform-dynamic', 'Uniform by epoch', 'epoch', 'mmpfb.UniformDynamic'),
        Method('static-random', 'Static random subset', 'epoch', 'mmpfb.StaticRandom'),
    )
}

# They refuse a model that does not prune.
_PRUNING_HOOKS = tuple(
    f'mmpfb.{name}' for name in ('PruningScheduleHook', 'RetentionRecordHook', 'ScoreAgreementHook')
)


def parse_method(text: str) -> Method:
    """Return the method that a text such as ``'pfb:temperature=0.5'`` names.

    Options follow a colon and are separated by commas; values are Python literals or plain text.

    Example:
        >>> parse_method('pfb:temperature=0.5').label
        'pfb-temperature=0.5'

    Raises:
        ValueError: If the method is unknown or an option has no value.
    """
    name, _, rest = text.partition(':')
    if name not in METHODS:
        raise ValueError(
            f'Expected a method to be one of {", ".join(METHODS)}, with options after a colon if '
            f'need be, but got {text!r}.'
        )
    method = METHODS[name]
    options = {}
    for option in filter(None, rest.split(',')):
        key, equals, value = option.partition('=')
        if not equals or not key:
            raise ValueError(
                f'Expected options such as temperature=0.5 after the colon, but got {text!r}.'
            )
        options[key] = _literal(value)
    if options and not method.component:
        raise ValueError(f'Expected no options for {name!r}, which has none, but got {text!r}.')
    return Method(method.name, method.title, method.kind, method.component, options)


@dataclass(frozen=True)
class Plan:
    """What is the same for all methods of a comparison.

    Attributes:
        config: Configuration of the full training, pruned or not.
        ratio: Share of the images that are pruned.
        iterations: Number of iterations of the full training.
        short_iterations: Number of iterations in which the plain training sees as many images as a
            method that prunes in the batch trains on.
        iterations_per_epoch: Number of batches in one pass over the data.
        equal_images: Whether methods that leave images out of an epoch get ``short_iterations``.
    """

    config: Config
    ratio: float
    iterations: int
    short_iterations: int
    iterations_per_epoch: int
    equal_images: bool

    def config_of(self, method: Method, seed: int) -> Config:
        """Return the configuration by which a method trains.

        Raises:
            TypeError: If the model of the configuration has no counterpart that prunes.
            ValueError: If the run cannot be made as short as the method needs.
        """
        config = copy.deepcopy(self.config)
        if method.kind == 'batch':
            _prune_in_batch(config, method, self.ratio)
        else:
            _train_plainly(config)
            if method.kind == 'epoch':
                _prune_epochs(config, method, self.ratio)
            iterations = self.iterations_of(method)
            if method.kind == 'epoch' or iterations != self.iterations:
                config = with_iterations(config, iterations, self.iterations_per_epoch)
        config.default_hooks['run_record'] = ConfigDict(type='mmpfb.RunRecordHook')
        config.randomness = ConfigDict({**config.get('randomness', {}), 'seed': seed})
        return config

    def iterations_of(self, method: Method) -> int:
        """Return the number of iterations that a method trains for."""
        shortened = method.kind == 'short' or (method.kind == 'epoch' and self.equal_images)
        return self.short_iterations if shortened else self.iterations


def _prune_in_batch(config: Config, method: Method, ratio: float) -> None:
    config.model.type = pruning_type(config.model.type, config.get('default_scope'))
    pruning = ConfigDict(config.model.get('pruning') or {})
    given = pruning.get('selector') or {}
    same = given.get('type', 'PFB') == method.component
    settings = {key: method.options[key] for key in _SETTINGS if key in method.options}
    options = {key: value for key, value in method.options.items() if key not in settings}
    pruning.selector = ConfigDict({**(given if same else {}), 'type': method.component, **options})
    pruning.ratio = ratio
    pruning.update(settings)
    config.model.pruning = pruning
    hooks = config.setdefault('default_hooks', ConfigDict())
    hooks.setdefault('pruning', ConfigDict(type='mmpfb.PruningScheduleHook'))
    if not same or 'temperature' in method.options:
        # A schedule of the configuration's own selector would fail, or overrule the option.
        hooks.pruning.pop('temperature', None)


def _train_plainly(config: Config) -> None:
    config.model.type = stock_type(config.model.type, config.get('default_scope'))
    config.model.pop('pruning', None)
    hooks = config.setdefault('default_hooks', ConfigDict())
    for name in [name for name, hook in hooks.items() if _needs_pruning(hook)]:
        hooks.pop(name)
    hooks.pop('pruning', None)
    if config.get('custom_hooks'):
        config.custom_hooks = [hook for hook in config.custom_hooks if not _needs_pruning(hook)]


def _needs_pruning(hook: Any) -> bool:
    return isinstance(hook, dict) and hook.get('type') in _PRUNING_HOOKS


def _prune_epochs(config: Config, method: Method, ratio: float) -> None:
    config.train_dataloader.sampler = ConfigDict(
        type=method.component, ratio=ratio, infinite=True, **method.options
    )
    config.default_hooks['image_losses'] = ConfigDict(type='mmpfb.ImageLossesHook')


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
