#!/usr/bin/env python3
"""Plans a model, compares the planner with other methods on held-out text, and checks what it promises.

  python3 scripts/planner_experiment.py search MODEL.mf --books DIR --held-out FILE... [--record FILE]
  python3 scripts/planner_experiment.py budgets MODEL.mf [MODEL.mf ...]

`search` reads MODEL without changing it and writes plan.json and plan.svg to the folder of --docs; --store puts the plan
into MODEL too. `budgets` times the plans that the models have in them on this machine (and stores the times), takes
--count budgets across the range of each, times what they get, and writes budgets.json. Nothing else should run beside it.
Both then write plan.md from what is there.
"""
import argparse
import json
import pathlib
import subprocess
import sys


def run(args, *words):
    process = subprocess.run([args.program, *map(str, words)], stdout=subprocess.PIPE)
    if process.returncode != 0:
        sys.exit(f"{args.program} {' '.join(map(str, words))}: status {process.returncode}")
    return json.loads(process.stdout)


def search(args):
    words = ["plan", args.model[0], "--text", args.books, "-n", args.evaluations, "--tokens", args.tokens, "--threads",
             args.threads, "--arithmetic", args.arithmetic, "--rounds", 1, "--json"]
    for path in args.held_out:
        words += ["--held-out", path]
    if args.record:
        words += ["--resume", args.record]
    run(args, *words, "--compare", "--no-store", "--out", args.docs / "plan.json", "--svg", args.docs / "plan.svg")
    if args.store:
        run(args, *words)


def budgets(args):
    results = []
    for model in args.model:
        plan = run(args, "plan", model, "--measure", "--rounds", args.rounds, "--threads", args.threads,
                   "--json")
        check = run(args, "plan", model, "--check-budgets", args.count, "--rounds", args.rounds, "--threads", args.threads,
                    "--json")
        check.update(file=plan["file"], machine=plan["machine"], threads=plan["threads"], draft=plan["draft"],
                     entries=[{key: entry[key] for key in ("size", "decode_ms", "prefill_ms")}
                              for entry in plan["plan"]["entries"]])
        results.append(check)
    path = args.docs / "budgets.json"
    measured = {result["file"] for result in results}
    if path.exists():  # those of other models stay
        results = [result for result in json.loads(path.read_text()) if result["file"] not in measured] + results
    path.write_text(json.dumps(results, indent=1) + "\n")


def compared(plan):
    own = plan["plan"]
    lines = [f"`{plan['file']}`, best for {plan['cost']}. Calibration: {plan['calibration']}. Held out: {plan['held_out']}.", "",
             "| method | evaluations | on the front | hypervolume | held-out hypervolume | of the planner's |",
             "|---|---|---|---|---|---|"]
    for method in [own] + plan["compared"]:
        lines.append(f"| {method['method']} | {method['evaluations']} | {len(method['entries'])} "
                     f"| {method['hypervolume'] / 1e6:.4f} | {method['held_out_hypervolume'] / 1e6:.4f} "
                     f"| {method['held_out_hypervolume'] / own['held_out_hypervolume']:.4f} |")
    lines += ["", "![front](plan.svg)", "", "Some of its entries:", "",
              "| view | parameters | loss | held-out loss | KL | same top token | accepted |", "|---|---|---|---|---|---|---|"]
    entries = own["entries"]
    for i in range(12):
        entry = entries[i * (len(entries) - 1) // 11]
        lines.append(f"| `{entry['size']}` | {entry['params'] / 1e6:.2f} M | {entry['loss']:.4f} "
                     f"| {entry['held_out_loss']:.4f} | {max(entry['kl'], 0):.4f} | {100 * entry['same_top_token']:.1f} % "
                     f"| {100 * entry['acceptance']:.1f} % |")
    return lines


def kept(result):
    off = sorted(abs(row["off"]) for row in result["rows"])
    lines = [f"### {result['file']}", "",
             f"{result['machine']}, {result['threads']} thread{'s' * (result['threads'] > 1)}. {result['within_10_percent']} of {result['budgets']} "
             f"budgets within 10 %; median deviation {100 * off[len(off) // 2]:.1f} %, largest {100 * off[-1]:.1f} %. "
             f"The widest view took {result['widest_ms']:.4g} ms a token.", "",
             "| budget, ms | promised | measured | off, as ratios to the widest |", "|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(f"| {row['budget_ms']:.4g} | {row['promised_ms']:.4g} | {row['measured_ms']:.4g} "
                     f"| {100 * row['off']:+.1f} % |")
    lines += ["", "Best draft for self-speculation: " + "; ".join(
        f"{how}: " + (f"{d['length']} token{'s' * (d['length'] > 1)} by `{d['size']}`, {100 * d['acceptance']:.1f} % accepted, at {d['cost']:.2f} of "
                      f"the widest's time, verified in {d['verify_cost']:.2f}: {d['speedup']:.2f} times as fast"
                      if d else "none is expected to be of use") for how, d in result["draft"].items()) + ".", ""]
    return lines


def page(docs):
    lines = ["<!-- written by scripts/planner_experiment.py -->", "# What the planner found", ""]
    if (docs / "plan.json").exists():
        lines += ["## Against other methods", "",
                  "Hypervolume: millions of parameters times nats per token by which the least loss that can be had for a "
                  "number of parameters lies below S's, over all numbers up to XL's.", ""]
        lines += compared(json.loads((docs / "plan.json").read_text()))
    if (docs / "budgets.json").exists():
        lines += ["", "## Budgets in milliseconds", "",
                  "*Promised* is the stored time of the entry that a budget gets, *measured* what it takes in another run; "
                  "both are compared as ratios to the widest view, which is timed in turn with it.", ""]
        for result in json.loads((docs / "budgets.json").read_text()):
            lines += kept(result)
    (docs / "plan.md").write_text("\n".join(lines).rstrip() + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "budgets", "page"])
    parser.add_argument("model", nargs="*")
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--docs", type=pathlib.Path, default=pathlib.Path("docs"))
    parser.add_argument("--books", help="folder of texts to calibrate on")
    parser.add_argument("--held-out", nargs="*", default=[])
    parser.add_argument("--record", help="evaluations go there, and are taken from there")
    parser.add_argument("--evaluations", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arithmetic", default="fast")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=45)
    args = parser.parse_args()
    if args.what == "search":
        search(args)
    if args.what == "budgets":
        budgets(args)
    page(args.docs)


if __name__ == "__main__":
    main()
