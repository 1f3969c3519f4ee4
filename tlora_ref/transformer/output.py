"""What a call of a model returns."""

from __future__ import annotations

from collections.abc import Callable

from tlora_ref.autograd import Tensor, reshape
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError


class Output:
    """Result of a forward pass.

    Attributes
    ----------
    loss : Tensor of one element: the summed cross entropy of the scored labels divided by their number (or by the
        `loss_divisor` of the call). Without labels there is none, and reading it is a ConfigError
    tokens : number of scored labels
    logits : array (batch, tokens, vocab) or (batch, classes); without the batch axis for a 1-D sample. Computed when
        first read: the loss does not need them whole. A bare encoder has none
    hidden : Tensor (batch, tokens, d_model), the last hidden states of an encoder, without the batch axis for a 1-D
        sample: what a loss of one's own, or a sentence's embedding, starts from. Other models give none
    """

    def __init__(
        self,
        logits: Callable[[], Array] | None,
        loss: Tensor | None,
        tokens: int,
        squeeze: bool,
        hidden: Tensor | None = None,
    ) -> None:
        self._compute = logits
        self._logits: Array | None = None
        self._squeeze = squeeze
        self._loss = loss
        self._hidden = hidden
        self.tokens = tokens

    def __repr__(self) -> str:
        loss = "no loss" if self._loss is None else f"loss={self._loss.item():.6g}, tokens={self.tokens}"
        return f"Output({loss})"

    @property
    def loss(self) -> Tensor:
        if self._loss is None:
            raise ConfigError("there is no loss: call the model with labels=...")
        return self._loss

    @property
    def logits(self) -> Array:
        if self._logits is None:
            if self._compute is None:
                raise ConfigError("a bare encoder has no logits: read its hidden states, out.hidden")
            logits = self._compute()
            self._logits = logits[0] if self._squeeze else logits
        return self._logits

    @property
    def hidden(self) -> Tensor:
        if self._hidden is None:
            raise ConfigError("only encoders give their hidden states (bert and its relatives)")
        return reshape(self._hidden, self._hidden.shape[1:]) if self._squeeze else self._hidden
