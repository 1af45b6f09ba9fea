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


def ours(args, kind, our_type, path, threads):
    """Tokens a second of the widest submodel, and their share of the roof or of the peak of what the type computes in."""
    result = run([args.program, "bench", kind, path, "--threads", str(threads), "--rounds", "5", "--json"])
    point = result[kind]["points"][-1]
    if kind == "decode":
        return 1 / point["seconds"], point["share_of_roof"]
    return point["tokens_per_second"], point["share_of_int8_peak" if our_type in ("q8", "q4") else "share_of_peak"]


def theirs(command, kind, path, threads):
    """Tokens a second, and which commit of the program it was."""
    words = [*command, "-m", path, "-t", str(threads), "-r", "5", "-o", "json", *KINDS[kind]]
    result = run(words)[0]
    return statistics.median(result["samples_ts"]), result["build_commit"]


def measure_pair(args, kind, peers, pair):
    our_type, our_path, their_type, their_path = pair
    row = {"kind": kind, "type": our_type, "their_type": their_type, "shares": [],
           "file_bytes": [os.path.getsize(our_path), os.path.getsize(their_path)],
           "tokens_per_second": {name: [] for name in ["ours", *peers]}}
    for _ in range(args.rounds):
        speed, share = ours(args, kind, our_type, our_path, args.threads)
        row["tokens_per_second"]["ours"].append(speed)
        row["shares"].append(share)
        for name, command in peers.items():
            speed, row.setdefault("commits", {})[name] = theirs(command, kind, their_path, args.threads)
            row["tokens_per_second"][name].append(speed)
    return row


def measure(args, peers, pairs):
    """Saves after each row: the whole takes minutes for every pair."""
    result = {"machine": describe_machine(), "threads": args.threads, "rounds": args.rounds, "rows": []}
    for pair in pairs:
        for kind in KINDS:
            result["rows"].append(measure_pair(args, kind, peers, pair))
            with open(os.path.join(args.docs, "peers.json"), "w") as out:
                json.dump(result, out, indent=1)
                out.write("\n")
    return result


def write_page(args, result):
    lines = ["<!-- written by scripts/peers.py -->", "# Beside other programs", "",
             f"Machine: {result['machine']}. Threads: {result['threads']}. Medians of {result['rounds']} runs in turn, of five each; tokens per",
             "second, the least and the most behind. A ratio is the median of the rounds', to the fastest of the others in each. The share is",
             "ours: of the read roof in decode; in prefill of the int8 peak for q8 and q4, of the f32 peak for other types.", ""]
    for kind in KINDS:
        rows, names = [], []
        for row in (r for r in result["rows"] if r["kind"] == kind):
            speeds = row["tokens_per_second"]
            names = [f"{name} {row['commits'][name]}" for name in speeds if name != "ours"]
            ratios = [own / max(others) for own, *others in zip(speeds["ours"], *(v for k, v in speeds.items() if k != "ours"))]
            rows.append([f"{row['type']} / {row['their_type']}",
                         *(f"{statistics.median(v):.1f} ({min(v):.1f}–{max(v):.1f})" for v in speeds.values()),
                         f"{statistics.median(ratios):.2f}", f"{100 * statistics.median(row['shares']):.0f} %"])
        lines += [f"## {kind.capitalize()}", "", *table(["type, ours / theirs", "ours", *names, "ratio", "share"], rows)]
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
        if not peers or not args.pair:
            parser.error("at least one --peer and one --pair are needed")
        result = measure(args, peers, [pair.split(":") for pair in args.pair])
    write_page(args, result)


if __name__ == "__main__":
    sys.exit(main())
