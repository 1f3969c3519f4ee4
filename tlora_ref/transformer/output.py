"""What a call of a model returns."""

from __future__ import annotations

from collections.abc import Callable

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array


class Output:
    """Result of a forward pass.

    Attributes
    ----------
    loss : Tensor of one element, or None if no labels were given: the summed cross entropy of the scored labels
        divided by their number (or by the `loss_divisor` of the call)
    tokens : number of scored labels
    logits : array (batch, tokens, vocab) or (batch, classes); without the batch axis for a 1-D sample. Computed when
        first read: the loss does not need them whole.
    """

    def __init__(self, logits: Callable[[], Array], loss: Tensor | None, tokens: int, squeeze: bool) -> None:
        self._compute = logits
        self._logits: Array | None = None
        self._squeeze = squeeze
        self.loss = loss
        self.tokens = tokens

    @property
    def logits(self) -> Array:
        if self._logits is None:
            logits = self._compute()
            self._logits = logits[0] if self._squeeze else logits
        return self._logits
