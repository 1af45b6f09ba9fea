#!/usr/bin/env python3
"""speculate.py MODEL - a narrow view writes ahead, the whole model verifies several tokens at once: the same text,
sooner where the draft is right often enough for what it costs.

The plan in the file says which draft is expected to be best; without one, the narrowest is taken.
"""

import sys

import matformer

PROMPT = "Once upon a time there was a king"


def main(path: str) -> None:
    with matformer.open(path) as model:
        session = matformer.Session(model)
        best = model.plan_draft() if model.plan else None
        draft = model.plan.entries[best.entry].text if best else model.granularities[0]
        length = best.length if best else 0

        alone = session.generate(PROMPT, max_tokens=120)
        text = alone.read()
        session.rewind()
        drafted = session.generate(PROMPT, max_tokens=120, draft=draft, draft_tokens=length)
        assert drafted.read() == text  # whatever the draft thinks

        done = drafted.result
        print(text)
        print(f"[draft {draft}: {done.n_accepted} of {done.n_drafted} drafted tokens accepted in {done.n_verify} "
              f"batches; {alone.result.generate_seconds / done.generate_seconds:.2f} times as fast]")


if __name__ == "__main__":
    main(*sys.argv[1:])
