#!/usr/bin/env python3
"""What it costs one size to read a cache that another wrote: runs `matformer eval --mixed` for pairs of sizes on held-out
texts and writes DOCS/mixed-cache.json and DOCS/mixed-cache.md.

  python3 scripts/mixed_cache.py --program build/tools/matformer --model models/tales.mf LONG.mf --text BOOK... --docs docs
"""
import argparse
import json
import os
import subprocess
import sys

PAIRS = ["S:XL", "M:XL", "L:XL"]
WRITTEN = "32,128,512,all"


def measure(args, model, pair):
    command = [args.program, "eval", model, "--mixed", pair, "--written", WRITTEN, "--span", str(args.span), "--threads", str(args.threads),
               "--json"]
    command += [word for text in args.text for word in ("--text", text)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result["file"] = os.path.basename(result["file"])
    return result


def made_by(args, model):
    """The command that trained it, as the file says."""
    info = json.loads(subprocess.run([args.program, "info", model, "--json"], check=True, capture_output=True, text=True).stdout)
    return info["metadata"].get("training.command", "unknown")


def plus_minus(value, error):
    return f"{value:+.4f} ± {error:.4f}"


def rows_of(result):
    """(reader, writer, written, own loss, row)"""
    own = {row["reader"]: row["loss"] for row in result["mixed"] if row["written"] == 0}
    for row in result["mixed"]:
        if row["written"]:
            yield row["reader"], row["writer"], row["written"], own[row["reader"]], row


def share_of_gap(result):
    """How much of what lies between the two sizes is lost or won: {(reader, written): share}."""
    own = {row["reader"]: row["loss"] for row in result["mixed"] if row["written"] == 0}
    return {(r, n): (row["loss_difference"]) / (own[w] - own[r]) for r, w, n, _, row in rows_of(result)}


def table(results, command):
    first = results[PAIRS[0]]
    lines = [f"## {first['file']}, {first['context']} positions", "",
             f"{first['windows']} windows of {first['context']} positions, the length that the model was trained for. Before the last "
             f"{first['span']} tokens of each there are {first['context'] - first['span']}. Trained by", "",
             f"    {command}", "",
             "| reader | writer | positions written | reader's loss alone | more than alone | of the gap | KL | same top token |",
             "|---|---|---|---|---|---|---|---|"]
    for pair in PAIRS:
        gap = share_of_gap(results[pair])
        for reader, writer, written, own, row in sorted(rows_of(results[pair]), key=lambda r: (r[0] != "XL", r[2])):
            lines.append(f"| {reader} | {writer} | {written} | {own:.4f} | "
                         f"{plus_minus(row['loss_difference'], row['loss_difference_error'])} | {100 * gap[reader, written]:.1f} % | "
                         f"{row['kl']:.4f} | {100 * row['same_top_token']:.1f} % |")
    return lines + [""]


def page(args, models):
    books = ", ".join(f"*{os.path.basename(text).rsplit('_', 1)[0].replace('-', ' ')}*" for text in args.text)
    lines = ["<!-- written by scripts/mixed_cache.py -->", "# The cost of a mixed cache", "",
             "A session keeps its keys and values when the width changes, so a wide view reads what a narrow one wrote, and the other",
             f"way round. Measured by `matformer eval --mixed` ([cli.md](cli.md#eval)) on {books}, which no training saw.",
             f"Counted are the last {args.span} tokens of each window; before them the *writer* ran the last so many positions, or all of",
             "them, and the *reader* the others. *More than alone*: nats per token above the reader's loss over the same tokens",
             "where it ran all positions, ± the standard error over windows. *Of the gap*: the same as a share of the difference",
             "between the two sizes, each alone; 100 % would be the other size's loss. KL and same top token: against the reader alone.", ""]
    for model in models:
        lines += table(model["pairs"], model["trained_by"])
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--model", default=["models/tales.mf"], nargs="+")
    parser.add_argument("--text", required=True, nargs="+", help="texts that no training saw")
    parser.add_argument("--span", type=int, default=128, help="tokens at the end of a window that count (128)")
    parser.add_argument("--threads", type=int, default=0, help="(0: one per core)")
    parser.add_argument("--docs", required=True, help="where mixed-cache.json and mixed-cache.md go")
    args = parser.parse_args()
    models = [{"pairs": {pair: measure(args, model, pair) for pair in PAIRS}, "trained_by": made_by(args, model)} for model in args.model]
    with open(os.path.join(args.docs, "mixed-cache.json"), "w") as out:
        json.dump(models, out, indent=1)
        out.write("\n")
    with open(os.path.join(args.docs, "mixed-cache.md"), "w") as out:
        out.write(page(args, models))


if __name__ == "__main__":
    sys.exit(main())
