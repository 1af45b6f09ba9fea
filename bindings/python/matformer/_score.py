"""Score: the log-probabilities of a text under a submodel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import numpy.typing as npt

from ._abi import Status
from ._errors import make_exception
from ._executor import Executor
from ._handles import Tokens, as_tokens
from ._model import Submodel, Views, read_model_info
from ._session import Session


@dataclass(frozen=True, eq=False)
class Score:
    """How likely a text is. Element i is of token n_context + i.

    logprobs  [n - n_context] natural logarithms of what a token's probability was, after those before it
    greedy    [n - n_context] whether it was the likeliest one, which greedy generation would have written
    """

    logprobs: "npt.NDArray[np.float32]"
    greedy: "npt.NDArray[np.bool_]"

    @property
    def total(self) -> float:
        """Of all the tokens after the context, together."""
        return float(self.logprobs.sum(dtype=np.float64))


def score(view: Submodel, tokens: Tokens, n_context: int, chunk: int, executor: Optional[Executor]) -> Score:
    text, model = as_tokens(tokens), view._live().keep
    info = read_model_info(model)
    n = text.size
    if info.n_vocab == 0:
        raise make_exception(Status.E_UNSUPPORTED, what="scoring a text with a model that has no tokens")
    if not 1 <= n_context <= n:
        raise ValueError(f"n_context is {n_context}, and should be 1 to the {n} tokens of the text: nothing predicts the "
                         "first one. Give a token that begins texts, such as model.info.bos_token, in front of it")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, and should be at least 1")
    if text.min() < 0 or text.max() >= info.n_token:
        raise ValueError(f"a token of the text is outside 0 to {info.n_token - 1}")
    logprobs, greedy = np.empty(n - n_context, np.float32), np.empty(n - n_context, np.bool_)
    found = Score(logprobs, greedy)
    if n == n_context:
        return found
    with Session._of(model, Views(model), info, max_positions=n, executor=executor) as session:
        before = n_context - 1  # rows whose logits predict the context itself
        if before:
            session.forward(text[:before], view, logits="none")
        room = np.empty((min(chunk, n - n_context), info.n_vocab), np.float32)
        for begin in range(before, n - 1, chunk):
            end = min(begin + chunk, n - 1)
            logits = room[:end - begin]
            session.forward(text[begin:end], view, logits="all", out=logits)
            part = slice(begin - before, end - before)
            logprobs[part], greedy[part] = _of_next(logits[:, :info.n_token], text[begin + 1:end + 1])
    return found


def _of_next(logits: "npt.NDArray[np.float32]",
             following: "npt.NDArray[np.int32]") -> "tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]":
    """Of each row's next token. The logits are overwritten, so that they need no second array of their size."""
    rows = np.arange(len(following))
    likeliest = logits.argmax(axis=1)  # of equal ones the first, as the sampler has it
    chosen, most = logits[rows, following].astype(np.float64), logits[rows, likeliest]
    np.subtract(logits, most[:, None], out=logits)
    np.exp(logits, out=logits)
    return chosen - most - np.log(logits.sum(axis=1, dtype=np.float64)), likeliest == following
