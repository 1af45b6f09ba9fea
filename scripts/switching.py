#!/usr/bin/env python3
"""What it costs to switch the width of a running text: the time of the first token, by `matformer bench switch`, and what
reading a cache that another size wrote does to the loss, by `matformer eval --mixed` for pairs of sizes on held-out texts.
Writes DOCS/switching.json and DOCS/switching.md.

  python3 scripts/switching.py --model models/tales.mf LONG.mf --text BOOK... --time --docs docs
"""
import argparse
import json
import os
import platform
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


def table(model):
    first = next(iter(model["pairs"].values()))
    books = ", ".join(f"*{text.rsplit('_', 1)[0].replace('-', ' ')}*" for text in model["texts"])
    lines = [f"### {first['file']}, {first['context']} positions", "",
             f"{first['windows']} windows of {first['context']} positions, the length that the model was trained for, of {books}, which no "
             f"training saw. Before the last {first['span']} tokens of each there are {first['context'] - first['span']}. Trained by", "",
             "```text", model["trained_by"], "```", "",
             "| reader | writer | positions written | reader's loss alone | more than alone | of the gap | KL | same top token |",
             "|---|---|---|---|---|---|---|---|"]
    results = model["pairs"]
    for pair in results:
        gap = share_of_gap(results[pair])
        for reader, writer, written, own, row in sorted(rows_of(results[pair]), key=lambda r: (r[0] != "XL", r[2])):
            lines.append(f"| {reader} | {writer} | {written} | {own:.4f} | "
                         f"{plus_minus(row['loss_difference'], row['loss_difference_error'])} | {100 * gap[reader, written]:.1f} % | "
                         f"{row['kl']:.4f} | {100 * row['same_top_token']:.1f} % |")
    return lines + [""]


def page(result):
    lines = ["<!-- written by scripts/switching.py -->", "# What it costs to switch", ""]
    if "time" in result:
        lines += time_lines(result["time"])
    span = next(iter(next(iter(result["models"].values()))["pairs"].values()))["span"] if result["models"] else 0
    lines += ["## A mixed cache", "",
              "A session keeps its keys and values when the width changes, so a wide view reads what a narrow one wrote, and the other",
              "way round. Measured by `matformer eval --mixed` ([cli.md](cli.md#eval)).",
              f"Counted are the last {span} tokens of each window; before them the *writer* ran the last so many positions, or all of",
              "them, and the *reader* the others. *More than alone*: nats per token above the reader's loss over the same tokens",
              "where it ran all positions, ± the standard error over windows. *Of the gap*: the same as a share of the difference",
              "between the two sizes, each alone; 100 % would be the other size's loss. KL and same top token: against the reader alone.", ""]
    for model in result["models"].values():
        lines += table(model)
    return "\n".join(lines)


def describe_machine():
    if not os.path.exists("/proc/cpuinfo"):
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)}
    return fields.get("model name", platform.machine()) + (f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else "")


def measure_time(args):
    """The first token after a switch, as a ratio to those after it, of runs one after another."""
    runs = [json.loads(subprocess.run([args.program, "bench", "switch", "--rounds", "31", "--json"], check=True, capture_output=True, text=True).stdout)
            for _ in range(5)]
    return {"model": runs[0]["model"], "machine": describe_machine(), "cores": os.cpu_count(), "runs": [run["switch"] for run in runs]}


def spread(values, form):
    values = sorted(values)
    return f"{form.format(values[len(values) // 2])} ({form.format(values[0])} to {form.format(values[-1])})"


def time_lines(time):
    lines = ["## Time", "",
             f"`matformer bench switch --rounds 31` on {time['machine']}, {time['cores']} cores, nothing else running: the median of five runs, and the least and most.",
             f"A random model of {time['model']['params'] / 1e6:.0f} M parameters, S being 1/8 of the FFN. *Steady*: the tokens that follow the one after a switch. "
             "*Cold*: such a token when 256 MiB of other memory were read before it.", "",
             "| width | steady | first after a switch | to steady | cold, to steady |", "|---|---|---|---|---|"]
    for name, key in ("S", "first_narrow"), ("XL", "first_wide"):
        rows = [run[key] for run in time["runs"]]
        lines.append(f"| {name} | {spread([1e3 * row['steady_seconds'] for row in rows], '{:.2f} ms')} | "
                     f"{spread([1e3 * row['first_seconds'] for row in rows], '{:.2f} ms')} | {spread([row['first_to_steady'] for row in rows], '{:.3f}')} | "
                     f"{spread([row['cold_to_steady'] for row in rows], '{:.3f}')} |")
    return lines + ["", "Nothing is copied or allocated when the width changes. Of what S reads, the caches keep a part from token to token; after XL they",
                    "hold what XL read last, and the first token of S finds as little there as after any other memory.", ""]


def save(args, result):
    """After each measurement, so that what a run of hours has is kept."""
    for name, text in ("switching.json", json.dumps(result, indent=1) + "\n"), ("switching.md", page(result)):
        path = os.path.join(args.docs, name)
        with open(path + ".part", "w") as out:
            out.write(text)
        os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--model", default=["models/tales.mf"], nargs="+")
    parser.add_argument("--text", default=[], nargs="+", help="texts that no training saw; without, what was measured before stays")
    parser.add_argument("--pair", default=PAIRS, nargs="+", help=f"sizes that read each other's cache ({' '.join(PAIRS)})")
    parser.add_argument("--time", action="store_true", help="measure the time of switching too; nothing else should run")
    parser.add_argument("--span", type=int, default=128, help="tokens at the end of a window that count (128)")
    parser.add_argument("--threads", type=int, default=0, help="(0: one per core)")
    parser.add_argument("--docs", required=True, help="where switching.json and switching.md go")
    args = parser.parse_args()
    path = os.path.join(args.docs, "switching.json")
    result = json.load(open(path)) if os.path.exists(path) else {"models": {}}
    for model in args.model if args.text else []:
        own = {"texts": [os.path.basename(text) for text in args.text], "trained_by": made_by(args, model), "pairs": {}}
        result["models"][os.path.basename(model)] = own
        for pair in args.pair:
            own["pairs"][pair] = measure(args, model, pair)
            save(args, result)
    if args.time:
        result["time"] = measure_time(args)
        save(args, result)


if __name__ == "__main__":
    sys.exit(main())
