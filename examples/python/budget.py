#!/usr/bin/env python3
"""budget.py MODEL [BUDGET...] - what fits a budget, by the plan in the file, and how likely a text is under it.

BUDGET is "params<=3e6", "bytes<=5e6", "flops<=1e7" or "ms<=20"; matformer plan writes plans.
"""

import sys

import matformer

TEXT = "Once upon a time there was a king who had three sons, and the youngest was called Simpleton."


def main(path: str, *budgets: str) -> None:
    with matformer.open(path) as model:
        if model.plan is None:
            sys.exit(f"{path} has no plan: make one with `matformer plan {path} --text TEXTS`")
        tokens, executor = model.tokenize(TEXT), matformer.Executor(model)
        most = model.info.n_param
        for budget in budgets or [f"params<={share * most:.0f}" for share in (0.35, 0.5, 0.7, 1)]:
            try:
                view = matformer.Submodel(model, budget)
            except matformer.NotFoundError as error:
                print(f"{budget}: {error.detail}")
                continue
            score = view.score(tokens, executor=executor)
            print(f"{budget}: {view.text}, {view.info.n_param} parameters, "
                  f"{-score.total / len(score.logprobs):.3f} nats a token")


if __name__ == "__main__":
    main(*sys.argv[1:])
