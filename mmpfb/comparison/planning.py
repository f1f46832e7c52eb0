"""Works out, before anything is trained, what each run of a comparison will do and cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS

from mmpfb.analysis.comparison import training_flops
from mmpfb.analysis.planned_images import planned_images
from mmpfb.comparison.methods import Method, Plan
from mmpfb.comparison.runs import Run
from mmpfb.core.schedule import resolve_window
from mmpfb.datasets.synthetic import image_size
from mmpfb.engine.pruning_schedule_hook import PruningScheduleHook
from mmpfb.engine.run_length import iterations_of
from mmpfb.models.counting import count_cost, pruning_model

BUDGETS = ('equal-images', 'equal-iterations')


def make_plan(config: Config, ratio: float, budget: str, num_gpus: int = 1) -> Plan:
    """Return what is the same for all methods of a comparison.

    Args:
        config: Configuration of the full training, pruned or not.
        ratio: Share of the images that are pruned.
        budget: One of :data:`BUDGETS`.
        num_gpus: Number of GPUs that a run trains on.

    Raises:
        TypeError: If the model has no counterpart that prunes.
        ValueError: If the schedule of pruning does not fit the run, or nothing would be pruned.
    """
    dataset = DATASETS.build(config.train_dataloader.dataset)
    batch_size = config.train_dataloader.batch_size * num_gpus
    whole, rest = divmod(len(dataset), batch_size)
    drop_last = config.train_dataloader.get('drop_last', False)
    # A loop of iterations also runs on data of less than one batch.
    per_epoch = max(whole if drop_last or not rest else whole + 1, 1)
    iterations = iterations_of(config, per_epoch)
    share = _planned_share(config, ratio, iterations, per_epoch)
    if share == 1:
        raise ValueError(
            f'Expected a `ratio` at which images are pruned, but ratio={ratio:g} prunes nothing in '
            f'batches of {config.train_dataloader.batch_size} images.'
        )
    # The last batch of an epoch may be a small one.
    epochs = iterations / per_epoch
    in_epochs = 'max_epochs' in config.train_cfg
    images = epochs * (whole * batch_size if drop_last else len(dataset))
    images = images if in_epochs else iterations * batch_size
    return Plan(
        config=config,
        ratio=ratio,
        iterations=iterations,
        short_iterations=round(share * images / batch_size),
        iterations_per_epoch=per_epoch,
        equal_images=budget == 'equal-images',
    )


def _planned_share(config: Config, ratio: float, iterations: int, per_epoch: int) -> float:
    arguments: dict[str, Any] = dict((config.get('default_hooks') or {}).get('pruning') or {})
    arguments.pop('type', None)
    hook = PruningScheduleHook(**arguments)
    window = resolve_window(hook.begin, hook.end, hook.by, iterations, per_epoch)
    batch_size = config.train_dataloader.batch_size
    min_keep = pruning_model(config, {'ratio': ratio}).pruner.min_keep
    images = planned_images(
        iterations, batch_size, window, ratio, min_keep, hook.ramp, hook.ramp_from
    )
    return images / (iterations * batch_size)


@dataclass(frozen=True)
class StepCost:
    """Operations of the steps of a method, per image of the whole batch.

    Attributes:
        full: Of a step that prunes nothing.
        pruned: Of a step that prunes.
        scoring: The part of it that is a pass of its own in which images are scored.
        ratio: Share of the images that the pruned step prunes.
    """

    full: float
    pruned: float
    scoring: float
    ratio: float

    def of_run(self, record: dict[str, int]) -> float:
        """Return the operations of a finished run."""
        return training_flops(record, self.full, self.pruned, self.scoring, self.ratio)


def step_cost(run: Run, ratio: float) -> StepCost:
    """Count the steps of a run.

    Raises:
        NotImplementedError: If they cannot be counted.
        ValueError: If the configuration does not tell the size of its images.
    """
    cost = count_cost(run.config, image_size(run.config), ratio=ratio)
    if not cost.ratio:
        raise ValueError(f'Expected a `ratio` of at least 0.001 to count, but got {ratio:g}.')
    return StepCost(cost.full.total, cost.pruned.total, cost.pruned.scoring, cost.ratio)


def planned_images_of(plan: Plan, method: Method) -> float:
    """Return how many batches' worth of images a method trains on, as a measure of its work."""
    return plan.short_iterations if method.kind == 'batch' else plan.iterations_of(method)


def make_runs(plan: Plan, methods: list[Method], num_seeds: int, folder: Path) -> list[Run]:
    """Return the runs of a comparison, all methods with the first seed before the second.

    Raises:
        TypeError: If the model has no counterpart that prunes.
        ValueError: If a run cannot be made as short as its method needs.
    """
    return [
        Run(
            method,
            seed,
            plan.config_of(method, seed),
            plan.iterations_of(method),
            folder / method.label / f'seed{seed}',
        )
        for seed in range(num_seeds)
        for method in methods
    ]


def check_methods(runs: list[Run]) -> None:
    """Build what prunes in each method, so that nothing is refused hours later.

    Raises:
        LocationError: If a model cannot be cut as asked for.
        TypeError: If a selector or sampler does not know an argument.
        ValueError: If an argument of a selector or sampler is wrong.
    """
    for run in runs:
        if run.seed:
            continue
        if run.method.kind == 'batch':
            pruning_model(run.config, {})
        elif run.method.kind == 'epoch':
            # Samplers look at the length of the data set alone.
            DATA_SAMPLERS.build({**run.config.train_dataloader.sampler, 'dataset': range(1000)})
