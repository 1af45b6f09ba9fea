#!/usr/bin/env python3
"""json_output.py MODEL - JSON of a schema from any model, also one that has never seen any: llguidance (pip install
llguidance) says which tokens may come next, and a filter takes all others away.

Masks go by the timeline alone, so that rewinding, drafts and any width work.
"""

import json
import os
import sys
from typing import Any, Optional

import llguidance
import llguidance.numpy
import numpy as np
import numpy.typing as npt

import matformer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"},
        "kind": {"enum": ["king", "queen", "dragon", "miller"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 900},
        "sons": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"}, "minItems": 1,
                 "maxItems": 3},
    },
    "required": ["name", "kind", "age", "sons"],
    "additionalProperties": False,
}


class Vocabulary:
    """A model's tokens as llguidance wants them."""

    def __init__(self, model: matformer.Model) -> None:
        self._model = model
        self.eos_token_id, self.bos_token_id = model.info.eos_token, None
        self.special_token_ids = [self.eos_token_id]
        self.tokens = [b"" if token == self.eos_token_id else model.detokenize_bytes(token)
                       for token in range(model.info.n_token)]

    def __call__(self, text: bytes) -> list[int]:
        return self._model.tokenize(text).tolist()


class Grammar:
    """A logits filter. The text that it is about begins at position `start` of the timeline."""

    def __init__(self, model: matformer.Model, schema: dict[str, Any], start: int) -> None:
        wrapped = llguidance.TokenizerWrapper(Vocabulary(model))
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        self._matcher = llguidance.LLMatcher(llguidance.LLTokenizer(wrapped), grammar)
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())
        self._start = start
        self._seen: list[int] = []
        self._mask = llguidance.numpy.allocate_token_bitmask(1, model.info.n_token)

    def __call__(self, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> None:
        written = tokens[self._start:].tolist()
        same = len(os.path.commonprefix([written, self._seen]))
        if same < len(self._seen):  # a draft that was refused, or a rewound session
            self._matcher.rollback(len(self._seen) - same)
        if not self._matcher.consume_tokens(written[same:]):
            raise ValueError(self._matcher.get_error())
        self._seen = written
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask)
        llguidance.numpy.apply_token_bitmask_inplace(logits, self._mask)


def write(model: matformer.Model, size: str, seed: int, draft: Optional[str] = None) -> Any:
    prompt = model.tokenize("Once upon a time there was")
    sampler = matformer.Sampler(model, temperature=0.8, seed=seed, filter=Grammar(model, SCHEMA, len(prompt)))
    generation = matformer.Session(model).generate(prompt, size, max_tokens=200, sampler=sampler, draft=draft)
    return json.loads(generation.read())


def main(path: str) -> None:
    with matformer.open(path) as model:
        for size in model.granularities:
            print(size, json.dumps(write(model, size, seed=1)))
        widest, narrowest = model.granularities[-1], model.granularities[0]
        print(f"{widest}, drafted by {narrowest}", json.dumps(write(model, widest, seed=2, draft=narrowest)))


if __name__ == "__main__":
    main(*sys.argv[1:])
