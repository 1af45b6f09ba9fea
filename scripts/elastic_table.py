#!/usr/bin/env python3
"""Generates with several sizes of one file, each in a process of its own, and writes memory and speed as a table.

  python3 scripts/elastic_table.py --program build/tools/matformer MODEL.mf=E2B,E2.54,E2.98,E3.39,E4B ...

Resident memory is the process's largest; of a mapped file it counts the pages that were touched, so that it says what
a size needs. The file is read once before, so that no time is the disk's. Nothing else should run meanwhile. With --docs
DIR it writes elastic.json and elastic.md there.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile


def run(program, *words):
    """What the program printed as JSON, and the most memory that it had resident."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([program, *map(str, words)], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{program} {' '.join(map(str, words))}: status {status}")
        out.seek(0)
        return json.load(out), usage.ru_maxrss * 1024


def measure(args, described):
    model, _, sizes = described.partition("=")
    sizes = sizes.split(",")
    info = run(args.program, "info", model, "--json")[0]
    granularities = {g["size"]: g for g in info["granularities"]}
    rows = {size: [] for size in sizes}
    words = ["run", model, "--prompt-tokens", args.prompt, "-n", args.tokens, "--temperature", 0, "--ignore-eos", "--json"]
    for _ in range(args.rounds):
        for size in sizes:  # interleaved
            result, resident = run(args.program, *words, "--size", size)
            rows[size].append((result["generated_tokens"] / result["generate_seconds"], resident))
            print(f"{model} {size}: {rows[size][-1][0]:.1f} tokens/s, {resident / 1e9:.2f} GB", flush=True)
    return {
        "file": pathlib.Path(model).name, "file_bytes": os.path.getsize(model), "types": info["types"],
        "sizes": [
            {"size": size, "tokens_per_second": statistics.median(speed for speed, _ in rows[size]),
             "slowest": min(speed for speed, _ in rows[size]), "fastest": max(speed for speed, _ in rows[size]),
             "resident_bytes": max(resident for _, resident in rows[size]),
             "params": granularities.get(size, {}).get("params")} for size in sizes]}


def describe_machine():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def page(result):
    lines = ["# Sizes of one file", "",
             f"Measured by `scripts/elastic_table.py` on {result['machine']}: {result['tokens']} tokens after a prompt of "
             f"{result['prompt_tokens']}, median of {result['rounds']} (slowest to fastest); the most memory that the process had "
             "resident, mapped weights included. Weights are random (`scripts/random_checkpoint.py`)."]
    for model in result["models"]:
        types = ", ".join(f"{role} {'+'.join(t) if isinstance(t, list) else t}" for role, t in model["types"].items())
        lines += ["", f"## {model['file']}", "", f"{model['file_bytes'] / 1e9:.2f} GB: {types}", "",
                  "| size | tokens/s | resident |", "|---|---|---|"]
        lines += [f"| {s['size']} | {s['tokens_per_second']:.1f} ({s['slowest']:.1f} to {s['fastest']:.1f}) "
                  f"| {s['resident_bytes'] / 1e9:.2f} GB |" for s in model["sizes"]]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--prompt", default="2,100,200,300,400,500,600,700", help="token ids")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=pathlib.Path)
    parser.add_argument("models", nargs="+", metavar="MODEL=SIZES")
    args = parser.parse_args()
    for model in args.models:  # into the page cache
        with open(model.partition("=")[0], "rb") as file:
            while file.read(1 << 24):
                pass
    result = {"machine": describe_machine(), "tokens": args.tokens, "prompt_tokens": len(args.prompt.split(",")),
              "rounds": args.rounds, "models": [measure(args, model) for model in args.models]}
    print(page(result))
    if args.docs:
        (args.docs / "elastic.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.docs / "elastic.md").write_text(page(result))


if __name__ == "__main__":
    main()
