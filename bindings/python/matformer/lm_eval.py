"""An adapter for lm-evaluation-harness: a view of a .mf file as one of its models.

    import lm_eval
    from matformer.lm_eval import MatformerLM

    results = lm_eval.simple_evaluate(MatformerLM("model.mf", submodel="M"), tasks=["lambada_openai"])

or, when this module was imported, by its name: model="matformer", model_args="path=model.mf,submodel=M". Needs lm_eval:
`pip install matformer[lm-eval]`.
"""

# mypy: disable-error-code="import-not-found, import-untyped, misc, unused-ignore"
# The harness may be missing where types are checked.

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as _error:
    raise ImportError("matformer.lm_eval needs lm-evaluation-harness: pip install matformer[lm-eval]") from _error
from tqdm.auto import tqdm

from . import Executor, Model, Sampler, Session, Submodel

_DEFAULT_MAX_TOKENS = 256


@register_model("matformer")
class MatformerLM(TemplateLM):
    """
    path        of a .mf or GGUF file or a Hugging Face folder, or an open Model
    submodel    the view's text form; None: the widest
    max_length  tokens of a context, of which the last are kept; None: the length that the model was trained for
    max_gen_toks  of a generation whose task says no limit
    threads     0: one per usable core
    options     of matformer.open()

    One request after another: `batch_size` is accepted, and does not matter.
    """

    def __init__(self, path: Union[str, "os.PathLike[str]", Model], submodel: Optional[str] = None, *,
                 max_length: Optional[int] = None, max_gen_toks: int = _DEFAULT_MAX_TOKENS, threads: int = 0,
                 batch_size: Any = 1, **options: Any) -> None:
        super().__init__()
        del batch_size
        for of_harness in ("device", "max_batch_size"):  # which it gives to every model
            options.pop(of_harness, None)
        self.model = path if isinstance(path, Model) else Model(path, **options)
        info = self.model.info
        if info.n_vocab == 0:
            raise ValueError(f"{path} takes images; give a language model")
        self.view = Submodel(self.model, submodel)
        self.max_length = int(max_length or info.max_positions)
        self.max_gen_toks = int(max_gen_toks)
        self._executor = Executor(self.model, threads=int(threads))
        self._bos, self._eos = info.bos_token, info.eos_token

    # ---- Tokens ----

    @property
    def eot_token_id(self) -> int:
        if self._eos < 0 and self._bos < 0:
            raise ValueError("the model has neither an end-of-text nor a beginning-of-text token, and nothing predicts a "
                             "text's first one; set it when the model is converted")
        return self._eos if self._eos >= 0 else self._bos

    @property
    def prefix_token_id(self) -> int:
        return self._bos if self._bos >= 0 else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: Optional[bool] = None, **kwargs: Any) -> List[int]:
        tokens: List[int] = self.model.tokenize(string, add_ends=bool(add_special_tokens)).tolist()
        return tokens

    # ---- Likelihoods ----

    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> Tuple[float, bool]:
        """The last max_length + 1 tokens: nothing is computed of the last one."""
        if not continuation:
            return 0.0, True
        if len(continuation) > self.max_length:
            raise ValueError(f"a continuation has {len(continuation)} tokens, and max_length is {self.max_length}; give "
                             "MatformerLM a larger max_length")
        tokens = [*context, *continuation][-(self.max_length + 1):]
        score = self.view.score(tokens, len(tokens) - len(continuation), executor=self._executor)
        return score.total, bool(score.greedy.all())

    def _loglikelihood_tokens(self, requests: Sequence[Tuple[Tuple[str, str], List[int], List[int]]],
                              disable_tqdm: bool = False, **kwargs: Any) -> List[Tuple[float, bool]]:
        results = []
        for texts, context, continuation in tqdm(requests, desc="Scoring", disable=disable_tqdm):
            result = self._score(context, continuation)
            self.cache_hook.add_partial("loglikelihood", texts, result)
            results.append(result)
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> List[float]:
        """Of whole texts, in windows of max_length tokens that predict each token once."""
        results = []
        for request in tqdm(requests, desc="Scoring", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(token_list=self.tok_encode(text), prefix_token=self.prefix_token_id,
                                                max_seq_len=self.max_length, context_len=1)
            total = sum(self._score(*make_disjoint_window(window))[0] for window in windows)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            results.append(total)
        return results

    # ---- Generation ----

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> List[str]:
        results = []
        for request in tqdm(requests, desc="Writing", disable=disable_tqdm):
            context, settings = request.args
            text = self._generate(context, dict(settings))
            self.cache_hook.add_partial("generate_until", request.args, text)
            results.append(text)
        return results

    def _generate(self, context: str, settings: Dict[str, Any]) -> str:
        until = settings.get("until") or []
        stop = [until] if isinstance(until, str) else [text for text in until if text]
        most = min(int(settings.get("max_gen_toks") or self.max_gen_toks), self.max_length - 1)
        prompt = self.tok_encode(context)[-(self.max_length - most):] or [self.prefix_token_id]
        temperature = float(settings.get("temperature") or 0.0)
        sampler = None
        if settings.get("do_sample") and temperature > 0:
            sampler = Sampler(self.model, temperature=temperature, top_p=float(settings.get("top_p") or 1.0))
        with Session(self.model, executor=self._executor, max_positions=len(prompt) + most) as session:
            text: str = session.generate(prompt, self.view, max_tokens=most, sampler=sampler, stop=stop).read()
        return text
