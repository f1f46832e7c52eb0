"""Which of MMEngine's ways to spread a model over devices fit pruning."""

from mmengine.runner import Runner

_LOST_STATE = (
    'it does not let hooks add to a checkpoint, so a resumed run would silently lose the state of '
    'pruning'
)
_REFUSED = {
    'DeepSpeedStrategy': _LOST_STATE,
    'ColossalAIStrategy': _LOST_STATE,
    'FSDPStrategy': 'no run with sharded weights was ever tested',
}


def check_strategy(runner: Runner) -> None:
    """Refuse strategies of a ``FlexibleRunner`` with which a run would go wrong.

    Raises:
        ValueError: If the strategy is DeepSpeed, ColossalAI or FSDP.
    """
    # The classes are not imported: their packages need not be there.
    names = [base.__name__ for base in type(getattr(runner, 'strategy', None)).__mro__]
    for name in names:
        if name in _REFUSED:
            raise ValueError(
                f'Expected a strategy that pruning was made for, but got {name}: {_REFUSED[name]}. '
                'Use the usual Runner, or DDPStrategy.'
            )
