#!/usr/bin/env python3
"""load_and_run.py MODEL [SIZE] - opens a model, takes a view of it, and writes a text as it comes."""

import sys

import matformer


def main(path: str, size: str = "") -> None:
    with matformer.open(path, progress=sys.stderr.isatty()) as model:
        view = matformer.Submodel(model, size or None)
        print(f"{model!r}, using {view.info.n_param / 1e6:.1f} M as {view.text}")
        generation = matformer.Session(model).generate("Once upon a time", view, max_tokens=60)
        for event in generation:
            print(event.text, end="", flush=True)
        done = generation.result
        print(f"\n[{done.n_generated / done.generate_seconds:.0f} tokens/s, ended by {done.finish.name}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
