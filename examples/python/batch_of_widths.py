#!/usr/bin/env python3
"""batch_of_widths.py MODEL - several timelines, each with a width of its own, in one batch.

One forward() moves all of them on by a token. What does not depend on the width is computed once for all rows, and each
part of the weights is read once, for the rows whose view reaches it.
"""

import sys

import matformer

PROMPT = "In the middle of the forest there stood"


def main(path: str) -> None:
    with matformer.open(path) as model:
        executor, sampler = matformer.Executor(model), matformer.Sampler(model, temperature=0.7, seed=1)
        sessions = [matformer.Session(model, executor=executor) for _ in model.granularities]
        inputs = [model.tokenize(PROMPT)] * len(sessions)
        for _ in range(32):
            results = executor.forward([matformer.Request(session, size, tokens) for session, size, tokens in
                                        zip(sessions, model.granularities, inputs)])
            inputs = [[sampler.sample(result.logits, session.tokens).token]
                      for session, result in zip(sessions, results)]
        for session, size in zip(sessions, model.granularities):
            print(f"[{size}] {model.detokenize(session.tokens)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
