#!/usr/bin/env python3
"""Runs `matformer bench governor`: sessions that write while the load changes in steps, and a governor that holds their
speed by their widths. Writes DOCS/governor.json and DOCS/governor.svg, and the section "A run" of DOCS/governor.md; prints
the share of the time in which the target was held.

  python3 scripts/governor_run.py --program build/tools/matformer --model models/tales.mf --docs docs

Nothing else should run. Needs matplotlib for the picture. --draw only draws and writes what governor.json has.
"""
import argparse
import json
import os
import platform
import subprocess
import sys

BEGIN, END = "<!-- written by scripts/governor_run.py -->", "<!-- end -->"


def processor():
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def measure(args):
    command = [args.program, "bench", "governor", args.model, "--seconds", str(args.seconds), "--json"]
    if args.target:
        command += ["--target", str(args.target)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result["model"]["file"] = os.path.basename(result["model"]["file"])
    result["machine"] = processor()
    return result


def phases(samples):
    """Runs of samples under the same load."""
    groups = []
    for sample in samples:
        load = sample["sessions"], sample["spinners"]
        if not groups or groups[-1][0] != load:
            groups.append((load, []))
        groups[-1][1].append(sample)
    return groups


def load_name(load):
    return f"{load[0]}" + (f" and {load[1]} threads" if load[1] else "")


def draw(args, result):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "governor"  # the same picture from the same numbers
    run = result["governor"]
    samples = run["samples"]
    at = [s["seconds"] for s in samples]
    figure, (speed, width) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=(2, 1))
    speed.plot(at, [s["tokens_per_second"] for s in samples], drawstyle="steps-pre", label="achieved")
    speed.axhline(run["target_tokens_per_second"], color="black", linestyle="--", linewidth=1, label="target")
    speed.set_ylabel("tokens/s of a session")
    speed.set_ylim(0, 1.3 * max(s["tokens_per_second"] for s in samples))
    speed.legend(loc="lower right")
    width.plot(at, [100 * s["bytes_share"] for s in samples], drawstyle="steps-pre", color="tab:green")
    width.set_ylabel("width, % of the\nweights read")
    width.set_ylim(0, 105)
    width.set_xlabel("seconds")
    top = speed.get_ylim()[1]
    begin = 0
    for i, (load, group) in enumerate(phases(samples)):
        end = group[-1]["seconds"]
        for axes in (speed, width):
            axes.axvspan(begin, end, color="0.93" if i % 2 else "1", zorder=0)
        words = f"{load[0]} sessions" + (f"\n+ {load[1]} competing\nthreads" if load[1] else "")
        speed.text((begin + end) / 2, 0.97 * top, words, ha="center", va="top", fontsize=8)
        begin = end
    figure.suptitle(f"Target held in {100 * run['held_share']:.1f} % of the time after settling; "
                    f"{run['narrowed']} times narrowed, {run['widened']} times widened", fontsize=10)
    figure.tight_layout()
    figure.savefig(os.path.join(args.docs, "governor.svg"), metadata={"Date": None})


def section(result):
    run = result["governor"]
    lines = [BEGIN, "",
             f"`{result['model']['file']}` on {result['machine']}. The target, {run['target_tokens_per_second']:.0f} tokens/s for each session, is 0.7 of the widest size's",
             f"speed with 4 sessions. It was held in **{100 * run['held_share']:.1f} %** of the means over 0.25 s that do not fall into the first {run['settle_seconds']:.2g} s of a",
             f"load; members were narrowed {run['narrowed']} times and widened {run['widened']} times in {len(phases(run['samples'])) * run['phase_seconds']:.0f} s.", "",
             "| sessions, competing threads | tokens/s of a session, mean (least to greatest) | weights read, share of the widest | target held |",
             "|---|---|---|---|"]
    for load, group in phases(run["samples"]):
        settled = [s for s in group if s["settled"]]
        if not settled:
            continue
        speeds = [s["tokens_per_second"] for s in settled]
        held = sum(v >= run["target_tokens_per_second"] for v in speeds) / len(speeds)
        lines.append(f"| {load_name(load)} | {sum(speeds) / len(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | "
                     f"{100 * sum(s['bytes_share'] for s in settled) / len(settled):.0f} % | {100 * held:.0f} % |")
    return "\n".join(lines + ["", "![speed, width and load](governor.svg)", "", END])


def write_section(args, result):
    path = os.path.join(args.docs, "governor.md")
    with open(path) as file:
        text = file.read()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{path}: the section of this script is not there")
    head, rest = text.split(BEGIN)
    with open(path, "w") as out:
        out.write(head + section(result) + rest.split(END)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--model", default="models/tales.mf")
    parser.add_argument("--target", type=float, help="tokens per second of a session (what the first load allows)")
    parser.add_argument("--seconds", type=float, default=8, help="of each load (8)")
    parser.add_argument("--docs", required=True, help="where governor.json, governor.svg and governor.md are")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    args = parser.parse_args()
    results = os.path.join(args.docs, "governor.json")
    if args.draw:
        with open(results) as file:
            result = json.load(file)
    else:
        result = measure(args)
        with open(results, "w") as out:
            json.dump(result, out, indent=1)
            out.write("\n")
    write_section(args, result)
    draw(args, result)
    print(f"target held in {100 * result['governor']['held_share']:.1f} % of the time")


if __name__ == "__main__":
    sys.exit(main())
