#!/usr/bin/env python3
"""Does nesting work? Trains, with `matformer train` alone, at about one million parameters:

  nested     one file with S, M, L, XL, on the joint objective
  apart      S, M, L and XL as models of their own, at the same number of tokens
  truncated  the XL of `apart`, cut to the widths of S, M and L (a view of it)

for each seed, and measures every one on the held-out texts with `matformer eval`. A run that was finished
is not made again, and one that was interrupted goes on from its checkpoint, so the script may be stopped
and started. Each seed's losses go to DOCS/nested.json, where those of an earlier time are kept, as long as
the recipe is the same: seeds may be added one by one. At the end it writes a table and a picture of all of
them beside it. Models do not depend on the number of threads, so on a machine of few cores as many --jobs
of one thread each are quickest.

  python3 scripts/nested_experiment.py --program build/tools/matformer --data BOOKS --valid BOOK... --folder runs --docs docs

Needs matplotlib for the picture.
"""
import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys

D_FF = 512
SIZES = {"S": 8, "M": 4, "L": 2, "XL": 1}  # d_ff divided by
SHAPE = ["--layers", "4", "--d-model", "128", "--heads", "4", "--head-group", "4", "--d-head", "32", "--ffn", "gated"]
LAYERS = 4
RECIPE = ["--batch", "16", "--sequence", "256", "--lr", "2e-3", "--warmup", "100", "--epochs", "1"]
# Mix'n'Match: widths per layer in units of d_ff / 8, between the granularities and not of them.
MIXES = {"S..M": [1, 1, 2, 2], "M..L": [2, 2, 4, 4], "L..XL": [4, 4, 8, 8], "XL first, S last": [8, 8, 1, 1]}


def run(command):
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


def held_out(args, option):
    return [word for text in args.valid for word in (option, text)]


def tokenizer(args):
    """Of all models, learned once."""
    out = os.path.join(args.folder, "tokenizer.mf")
    if not os.path.exists(out):
        run([args.program, "train", "--data", args.data, *held_out(args, "--valid"), "--out", out, "--vocab", "1024", *SHAPE,
             "--d-ff", "256", "--steps", "1", "--evaluate-tokens", "256"])
    return out


def model_path(args, name, seed):
    return os.path.join(args.folder, f"{name}-{seed}.mf")


def train(args, name, seed, extra):
    """Trains the model if it is not there."""
    out = model_path(args, name, seed)
    done = out + ".done"
    if os.path.exists(done):
        return
    run([args.program, "train", "--data", args.data, *held_out(args, "--valid"), "--out", out, "--tokenizer", tokenizer(args),
         *SHAPE, *RECIPE, *extra, "--seed", str(seed), "--threads", str(args.threads), "--checkpoint", out + ".ck",
         "--every", "200", "--evaluate-every", "100000", "--evaluate-tokens", "16384", "--log", out + ".jsonl"])
    open(done, "w").close()
    os.remove(out + ".ck")


def train_all(args, seeds):
    """Every model of a seed before the next seed's; the longest first."""
    tokenizer(args)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as jobs:
        runs = []
        for seed in seeds:
            runs.append(jobs.submit(train, args, "nested", seed, ["--d-ff", str(D_FF), "--objective", "joint"]))
            for size, divisor in reversed(SIZES.items()):
                only = ["--d-ff", str(D_FF // divisor), "--granularities", "XL:1"]
                runs.append(jobs.submit(train, args, f"apart-{size}", seed, only))
        for one in runs:
            one.result()


def losses(args, path, sizes):
    """{size: held-out loss in nats per token}, of the views `sizes`."""
    command = [args.program, "eval", path, "--json"]
    command += held_out(args, "--text")
    command += [word for size in sizes for word in ("--size", size)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [view["loss"] for view in result["views"]]


def widths(eighths):
    return "ffn=" + ",".join(str(D_FF * n // 8) for n in eighths)


def results_path(args):
    return os.path.join(args.docs, "nested.json")


def recipe(args):
    """What losses have to have in common to be set side by side."""
    return {"shape": SHAPE, "d_ff": D_FF, "sizes": SIZES, "mixes": MIXES, "training": RECIPE,
            "held out": sorted(os.path.basename(text) for text in args.valid)}


def known_seeds(args):
    if not os.path.exists(results_path(args)):
        return {}
    known = json.load(open(results_path(args)))
    return known["seeds"] if known["recipe"] == recipe(args) else {}


def measure_seed(args, seed):
    nested, plain = model_path(args, "nested", seed), model_path(args, "apart-XL", seed)
    cut = [widths([8 // divisor] * LAYERS) for divisor in SIZES.values()]
    mixes = [widths(mix) for mix in MIXES.values()]
    return {"nested": dict(zip(SIZES, losses(args, nested, list(SIZES)))),
            "mixes": dict(zip(MIXES, losses(args, nested, mixes))),
            "apart": {size: losses(args, model_path(args, f"apart-{size}", seed), ["XL"])[0] for size in SIZES},
            "truncated": dict(zip(SIZES, losses(args, plain, cut)))}


def spread(values):
    """Mean, and half the distance between the least and the greatest."""
    return statistics.mean(values), (max(values) - min(values)) / 2


def verdict(a, b):
    """Claimed only where the ranges of the seeds do not touch, and never from one seed."""
    if len(a) < 2:
        return "one seed: open"
    (mean_a, half_a), (mean_b, half_b) = spread(a), spread(b)
    if abs(mean_a - mean_b) <= half_a + half_b:
        return "within the spread"
    return f"nested better by {mean_b - mean_a:.3f}" if mean_a < mean_b else f"apart better by {mean_a - mean_b:.3f}"


def write_table(args, seeds):
    def column(kind, size):
        return [result[kind][size] for result in seeds.values()]

    def cell(values):
        mean, half = spread(values)
        return f"{mean:.3f} ± {half:.3f}"

    lines = ["<!-- written by scripts/nested_experiment.py -->", "# Nested against apart and truncated", "",
             f"Held-out loss, nats per token, after one epoch at about one million parameters; mean over {len(seeds)} seed{'s' if len(seeds) > 1 else ''} ± half",
             "the range. *Apart*: four models, each trained on as many tokens as the nested one. *Truncated*: the XL trained",
             "apart, cut to the narrower widths without further training.", "",
             "| size | nested | apart | truncated | nested or apart |", "|---|---|---|---|---|"]
    for size in SIZES:
        lines.append(f"| {size} | {cell(column('nested', size))} | {cell(column('apart', size))} | "
                     f"{cell(column('truncated', size))} | {verdict(column('nested', size), column('apart', size))} |")
    lines += ["", "Mix'n'Match views of the nested file, never trained as such:", "", "| view | widths | loss |", "|---|---|---|"]
    for name, mix in MIXES.items():
        lines.append(f"| {name} | `{widths(mix)}` | {cell(column('mixes', name))} |")
    lines += ["", "![losses](nested.svg)", ""]
    with open(os.path.join(args.docs, "nested.md"), "w") as out:
        out.write("\n".join(lines))


def draw(args, seeds):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "nested"  # the same picture from the same numbers
    figure, axes = plt.subplots(figsize=(7, 4.2))
    shares = [1 / divisor for divisor in SIZES.values()]
    for kind, label in (("nested", "nested, one file"), ("apart", "trained apart"), ("truncated", "plain XL, truncated")):
        points = [spread([result[kind][size] for result in seeds.values()]) for size in SIZES]
        axes.errorbar(shares, [p[0] for p in points], [p[1] for p in points], marker="o", capsize=3, label=label)
    mixes = [spread([result["mixes"][name] for result in seeds.values()]) for name in MIXES]
    axes.errorbar([sum(mix) / (8 * LAYERS) for mix in MIXES.values()], [p[0] for p in mixes], [p[1] for p in mixes],
                  linestyle="none", marker="x", capsize=3, label="nested, Mix'n'Match")
    axes.set_xscale("log", base=2)
    axes.set_xticks(shares, [f"{size}\n1/{divisor}" if divisor > 1 else size for size, divisor in SIZES.items()])
    axes.set_xlabel("share of the FFN width")
    axes.set_ylabel("held-out loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(os.path.join(args.docs, "nested.svg"), metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--data", required=True, help="folder of *.txt to train on")
    parser.add_argument("--valid", required=True, nargs="+", help="held-out texts, never trained on")
    parser.add_argument("--folder", required=True, help="models and checkpoints")
    parser.add_argument("--docs", required=True, help="where nested.json, nested.md and nested.svg go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="models trained at once (1)")
    parser.add_argument("--threads", type=int, default=0, help="of each (0: one per core)")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    seeds = known_seeds(args)
    missing = [seed for seed in args.seeds if str(seed) not in seeds]
    if missing:
        train_all(args, missing)
    for seed in missing:
        seeds[str(seed)] = measure_seed(args, seed)
        with open(results_path(args), "w") as out:
            json.dump({"recipe": recipe(args), "seeds": seeds}, out, indent=1)
            out.write("\n")
    write_table(args, seeds)
    draw(args, seeds)


if __name__ == "__main__":
    sys.exit(main())
