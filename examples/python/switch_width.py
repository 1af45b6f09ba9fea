#!/usr/bin/env python3
"""switch_width.py MODEL - one session, all widths of the file, one timeline.

The text begins with the narrowest view and goes on with the next wider one every few tokens. Nothing is loaded again and
nothing is computed twice: a view is an argument of the next token.
"""

import sys

import matformer

TOKENS_PER_WIDTH = 24


def main(path: str) -> None:
    with matformer.open(path) as model:
        session, prompt = matformer.Session(model), "Once upon a time there was a king"
        for size in model.granularities:
            view = matformer.Submodel(model, size)
            print(f"\n[{size}, {view.info.n_param / 1e6:.1f} M parameters, from position {session.position}]")
            print(session.generate(prompt, view, max_tokens=TOKENS_PER_WIDTH).read())
            prompt = None  # go on

        # The same in one call: a schedule says from which position on which view runs.
        session.rewind()
        steps = [(TOKENS_PER_WIDTH * i, size) for i, size in enumerate(model.granularities)]
        generation = session.generate("Once upon a time there was a king", schedule=steps, max_tokens=96)
        print("\n[scheduled]\n" + generation.read())
        print([(position, view.text) for position, view in generation.result.schedule])


if __name__ == "__main__":
    main(*sys.argv[1:])
