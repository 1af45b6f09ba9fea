#!/usr/bin/env python3
"""Decoding and prefill of one shape beside other programs, in turn on this machine, to DOCS/peers.md and peers.json.

  python3 scripts/peers.py --docs docs --peer llama.cpp=PATH/llama-bench \\
      --pair q4:OURS.mf:Q4_0:THEIRS.gguf --pair q8:OURS.mf:Q8_0:THEIRS.gguf

A --peer is a llama-bench of llama.cpp or a fork of it; words after the path go to it as they are ("NAME=PATH -rtr 1"). A
--pair is a type and a model of ours, then one of theirs, of the same shape; random weights do. Nothing else should run.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from performance import describe_machine, table  # noqa: E402

KINDS = {"decode": ["-p", "0", "-n", "32"], "prefill": ["-p", "512", "-n", "0"]}


def run(words):
    print("+", *words, flush=True)
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def ours(args, kind, path, threads):
    """Tokens a second of the widest submodel, and what of the roof or peak they are."""
    result = run([args.program, "bench", kind, path, "--threads", str(threads), "--rounds", "5", "--json"])
    point = result[kind]["points"][-1]
    if kind == "decode":
        return 1 / point["seconds"], point["share_of_roof"], point["bytes_per_token"]
    return point["tokens_per_second"], point["share_of_int8_peak"], None


def theirs(command, kind, path, threads):
    words = [*command, "-m", path, "-t", str(threads), "-r", "3", "-o", "json", *KINDS[kind]]
    return run(words)[0]["avg_ts"]


def measure(args, peers, pairs):
    rows = []
    for our_type, our_path, their_type, their_path in pairs:
        for kind in KINDS:
            samples = {name: [] for name in ["ours", *peers]}
            shares, read = [], None
            for _ in range(args.rounds):
                speed, share, read = ours(args, kind, our_path, args.threads)
                samples["ours"].append(speed)
                shares.append(share)
                for name, command in peers.items():
                    samples[name].append(theirs(command, kind, their_path, args.threads))
            rows.append({"kind": kind, "type": our_type, "their_type": their_type, "bytes_per_token": read,
                         "file_bytes": [os.path.getsize(our_path), os.path.getsize(their_path)],
                         "share": statistics.median(shares), "tokens_per_second": samples})
    return {"machine": describe_machine(), "threads": args.threads, "rounds": args.rounds,
            "peers": {name: os.path.basename(command[0]) for name, command in peers.items()}, "rows": rows}


def write_page(args, result):
    names = list(result["peers"])
    lines = ["<!-- written by scripts/peers.py -->", "# Beside other programs", "",
             f"Machine: {result['machine']}. Threads: {result['threads']}. Medians of {result['rounds']} runs in turn; tokens per second, the",
             "least and the most behind. The share is ours: of the read roof in decode, of the int8 peak in prefill.", ""]
    for kind in KINDS:
        rows = []
        for row in (r for r in result["rows"] if r["kind"] == kind):
            medians = {name: statistics.median(values) for name, values in row["tokens_per_second"].items()}
            best = max(medians[name] for name in names)
            cells = [f"{medians[n]:.1f} ({min(v):.1f}–{max(v):.1f})" for n, v in row["tokens_per_second"].items()]
            rows.append([f"{row['type']} / {row['their_type']}", *cells, f"{medians['ours'] / best:.2f}",
                         f"{100 * row['share']:.0f} %"])
        head = ["type, ours / theirs", "ours", *names, "ours to the best", "share"]
        lines += [f"## {kind.capitalize()}", "", *table(head, rows)]
    with open(os.path.join(args.docs, "peers.md"), "w") as out:
        out.write("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--docs", required=True, help="where peers.md and peers.json go")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--pair", action="append", default=[], metavar="TYPE:MF:TYPE:GGUF")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (5)")
    parser.add_argument("--from", dest="source", help="write the page from this JSON instead of measuring")
    args = parser.parse_args()
    if args.source:
        result = json.load(open(args.source))
    else:
        peers = {name: shlex.split(command) for name, command in (peer.split("=", 1) for peer in args.peer)}
        result = measure(args, peers, [pair.split(":") for pair in args.pair])
        with open(os.path.join(args.docs, "peers.json"), "w") as out:
            json.dump(result, out, indent=1)
            out.write("\n")
    write_page(args, result)


if __name__ == "__main__":
    sys.exit(main())
