#!/usr/bin/env python3
"""Whether transformers computes from an exported folder what we say of it.

    python3 check_export.py FOLDER LOGITS.bin [CASE...]

LOGITS.bin is in the form of expected_file.py; its cases are all runs of the model that the folder holds, so views are
not looked at. Of checkpoints/NAME, it is the case `full` of their own expected.bin. Exit status 1: beyond 1e-4.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

import expected_file
import matformer_olmo
from make_checkpoints import load, run, run_vit

BOUND = 1e-4


def run_olmo(folder, config):
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    widths = [config["mlp_ratio"] * config["d_model"]] * config["n_layers"]

    def run(arrays):
        tokens = torch.tensor(arrays["tokens"])
        return dict(logits=matformer_olmo.logits(config, weights, tokens, widths).numpy())

    return run


def run_transformers(folder, config):
    model = load(getattr(transformers, config["architectures"][0]), folder)

    def run_any(arrays):
        if "tokens" in arrays:
            return dict(logits=run(model, torch.tensor(arrays["tokens"])).numpy())
        return {name: out.numpy() for name, out in run_vit(model, torch.tensor(arrays["pixels"])).items()}

    return run_any


def main():
    folder, logits, *names = sys.argv[1:]
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    maker = run_olmo if config["model_type"] == "matformer_olmo" else run_transformers
    transformers.logging.set_verbosity_error()
    return expected_file.compare(logits, names, maker(folder, config), BOUND)


if __name__ == "__main__":
    sys.exit(main())
