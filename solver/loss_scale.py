"""The scale of the loss, which keeps float16 gradients in range."""

import torch


class LossScale:
    """The factor that lifts float16 gradients out of the range where they become zero.

    It doubles after many steps with finite gradients. It halves after one without, which is then
    skipped. Other dtypes need no scale: the factor is 1.
    """

    _FIRST = 2.0**12
    _LARGEST = 2.0**24
    _STEPS_TO_DOUBLE = 1000

    def __init__(self, dtype: torch.dtype) -> None:
        """Start for losses computed in ``dtype``."""
        self.is_used = dtype == torch.float16
        self.factor = self._FIRST if self.is_used else 1.0
        self.good_steps = 0

    @property
    def largest(self) -> float:
        """The largest factor there is; the least is 1."""
        return self._LARGEST if self.is_used else 1.0

    def update(self, finite: bool) -> bool:
        """Adapt the factor to whether gradients were ``finite``; return whether the step counts.

        Raises ``FloatingPointError`` when gradients are not finite even without a factor.
        """
        if finite:
            self.good_steps += 1
            if self.good_steps % self._STEPS_TO_DOUBLE == 0:
                self.factor = min(2 * self.factor, self._LARGEST)
        elif self.factor <= 1:
            raise FloatingPointError(
                "float16 is too narrow for these gradients; choose engine.dtype=float32"
            )
        else:
            self.factor /= 2
            self.good_steps = 0
        return finite
