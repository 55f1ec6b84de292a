"""Schedules: the multiplier of the learning rates, and the rate of the moving average."""

from torch.optim import Optimizer

from solver.settings import TrainSettings

_LONGEST_WARMUP = 0.1  # of the run, as a share of it


def set_learning_rates(optimizer: Optimizer, multiplier: float) -> None:
    """Set every group's learning rate to ``multiplier`` times its initial one."""
    for group in optimizer.param_groups:
        group["lr"] = multiplier * group["initial_lr"]


def lr_multiplier(step: int, progress: float, settings: TrainSettings) -> float:
    """Return what the learning rates are multiplied by in ``step``, counted from 1.

    ``progress`` is the share of the run, in steps or in time, before the step. The rates rise
    linearly over the warm-up, which ends after a tenth of the run at the latest. With wsd (warm-up,
    stable, decay) they reach zero after the last step.
    """
    warmup = max(step / max(1, settings.warmup_steps), progress / _LONGEST_WARMUP)
    multiplier = min(1.0, warmup)
    if settings.schedule == "wsd":
        return multiplier * min(1.0, (1 - progress) / settings.decay_share)
    return multiplier


def ema_rate(step: int, settings: TrainSettings) -> float:
    """Return the rate of the moving average in ``step``, counted from 1.

    With ``ema_share`` s the average spans s x step, so it forgets its start however long the run.
    """
    if settings.ema_share == 0:
        return settings.ema_rate
    return min(settings.ema_rate, 1 - 1 / (1 + settings.ema_share * step))
