#!/usr/bin/env python3
"""Decoding and prefill of one shape beside other programs, in turn on this machine, to DOCS/peers.md, .json and .svg.

  python3 scripts/peers.py --docs docs --peer llama.cpp=PATH/llama-bench \\
      --pair q4:OURS.mf:Q4_0:THEIRS.gguf --pair q8:OURS.mf:Q8_0:THEIRS.gguf

A --peer is a llama-bench of llama.cpp or a fork of it; words after the path go to it as they are ("NAME=PATH -rtr 1"). A
--pair is a type ("bf16 fast" for the fast arithmetic) and a model of ours, then one of theirs, of the same shape; random weights do. Nothing else should run.

The programs and the models:
  sh scripts/build_peers.sh PEERS
  build/test/make_model --type q4 1.1b OURS.mf
  python3 scripts/random_gguf.py --shape 1.1b --type bf16 THEIRS.gguf
  PEERS/llama.cpp/bin/llama-quantize --pure THEIRS.gguf THEIRS-q4.gguf Q4_K_S
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from performance import describe_machine, keep_header, table  # noqa: E402

KINDS = {"decode": ["-p", "0", "-n", "32"], "prefill": ["-p", "512", "-n", "0"]}
REPEATS = 3  # of a peer in a round


def run(words):
    print("+", *words, flush=True)
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def ours(args, kind, our_type, path, threads):
    """Tokens a second of the widest submodel, and their share of the roof or of the peak of what the type computes in."""
    weights, _, arithmetic = our_type.partition(" ")
    words = ["--arithmetic", arithmetic] if arithmetic else []
    result = run([args.program, "bench", kind, path, "--threads", str(threads), "--widths", "1", "--rounds", "5", "--json", *words])
    if result["model"]["arithmetic"] != (arithmetic or "exact"):
        sys.exit(f"{path}: there are no kernels here for the arithmetic of \"{our_type}\"")
    point = result[kind]["points"][-1]
    if kind == "decode":
        return 1 / point["seconds"], point["share_of_roof"]
    share = "share_of_int8_peak" if weights in ("q8", "q4") else "share_of_bf16_peak" if arithmetic == "fast" else "share_of_peak"
    return point["tokens_per_second"], point.get(share, float("nan"))


def theirs(command, kind, path, threads):
    """Tokens a second, and which commit of the program it was."""
    words = [*command, "-m", path, "-t", str(threads), "-r", str(REPEATS), "-o", "json", *KINDS[kind]]
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


POSITIONS = (512, 4096, 32768)
ROWS = 512  # of a prompt, that prefill is measured by


def seconds_at_depths(command, path, threads, words, depths):
    runs = run([*command, "-m", path, "-t", str(threads), "-r", str(REPEATS), "-fa", "1", "-o", "json", *words, "-d", ",".join(map(str, depths))])
    return [statistics.median(r["samples_ns"]) * 1e-9 for r in runs]


def peer_attention(command, layers, path, threads):
    """What attention to so many earlier positions takes in one layer: the time with them less that without. For prefill as
    multiply-adds a second, each counted as two; 32 heads of 64."""
    before = [n - ROWS if n > ROWS else ROWS for n in POSITIONS]
    alone, *prefill = seconds_at_depths(command, path, threads, ["-p", str(ROWS), "-n", "0"], [0, *before])
    first, *decode = seconds_at_depths(command, path, threads, ["-p", "0", "-n", "16"], [0, *POSITIONS])
    return {"prefill_flops_per_second": [4 * 32 * 64 * ROWS * n * layers / (t - alone) if t > alone else 0 for n, t in zip(before, prefill)],
            "decode_seconds": [(t - first) / 16 / layers for t in decode]}


def our_attention(args):
    points = run([args.program, "bench", "attention", "--threads", str(args.threads), "--rounds", "5", "--json"])["attention"]["points"]
    return {kind: {"prefill_flops_per_second": [p["flops_per_second"] for p in points if is_of(args, p, kind)],
                   "decode_seconds": [p["decode_seconds"] for p in points if is_of(args, p, kind)]} for kind in ("f32", "bf16", "q8")}


def is_of(args, point, kind):
    return point["threads"] == args.threads and point["cache"] == kind


def measure_attention(args, peers):
    """One round: filling 32768 positions takes a peer minutes."""
    layers, path = args.attention.split(":")
    result = {f"ours, {kind}": speeds for kind, speeds in our_attention(args).items()}
    for name, command in peers.items():
        result[f"{name}, f16"] = peer_attention(command, int(layers), path, args.threads)
    return result


def measure(args, peers, pairs):
    """Saves after each row, since the whole takes minutes for every pair. What is not asked for stays as it was."""
    path = os.path.join(args.docs, "peers.json")
    result = json.load(open(path)) if os.path.exists(path) else {"rows": []}
    keep_header(result, path, machine=describe_machine(), threads=args.threads, rounds=args.rounds)
    if pairs and any(list(row["tokens_per_second"]) != ["ours", *peers] for row in result["rows"]):
        sys.exit(f"{path}: the rows there have other peers; name the same, or measure elsewhere")
    if args.attention:
        result["attention"] = measure_attention(args, peers)
        save(result, path)
    if pairs:
        result["rows"] = [row for row in result["rows"] if [row["type"], row["their_type"]] not in [[p[0], p[2]] for p in pairs]]
    for pair in pairs:
        for kind in KINDS:
            result["rows"].append(measure_pair(args, kind, peers, pair))
            save(result, path)
    return result


def save(result, path):
    with open(path + ".part", "w") as out:
        json.dump(result, out, indent=1)
        out.write("\n")
    os.replace(path + ".part", path)


def attention_lines(result):
    if "attention" not in result:
        return []
    rows = [[name, *(f"{1e-9 * rate:.0f}" if rate > 0 else "-" for rate in speeds["prefill_flops_per_second"]),
             *(f"{1e6 * seconds:.0f} µs" if seconds > 0 else "-" for seconds in speeds["decode_seconds"])] for name, speeds in result["attention"].items()]
    return ["## Attention", "",
            "One layer of 32 heads of 64 with 4 of keys and values, over so many positions; by type of the cache. Prefill: the last 512 rows",
            "of a prompt, in GFLOP/s (of the others, which are measured by what they take longer with earlier positions than without, over",
            "the earlier positions alone, and over 512 of them for 512). Decode: one token. The others with flash attention (`-fa 1`).", "",
            *table(["", *(f"prefill, {n}" for n in POSITIONS), *(f"decode, {n}" for n in POSITIONS)], rows)]


def write_page(args, result):
    lines = ["<!-- written by scripts/peers.py -->", "# Beside other programs", "",
             f"Machine: {result['machine']}. Threads: {result['threads']}. Medians of {result['rounds']} runs in turn; tokens per second, the",
             "least and the most behind. A ratio is the median of the rounds', to the fastest of the others in each. The share is",
             "ours: of the read roof in decode; in prefill of the int8 peak for q8 and q4, of that of bf16 pairs for bf16 fast, of the f32 peak for other types.", ""]
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
    lines += ["![tokens per second](peers.svg)", "", *attention_lines(result)]
    with open(os.path.join(args.docs, "peers.md"), "w") as out:
        out.write("\n".join(lines))


def draw(args, result):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "peers"  # the same picture from the same numbers
    figure, axes = plt.subplots(1, len(KINDS), figsize=(10, 4))
    for axis, kind in zip(axes, KINDS):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        names = list(rows[0]["tokens_per_second"]) if rows else []
        for i, name in enumerate(names):
            speeds = [row["tokens_per_second"][name] for row in rows]
            middle = [statistics.median(v) for v in speeds]
            reach = [[m - min(v) for m, v in zip(middle, speeds)], [max(v) - m for m, v in zip(middle, speeds)]]
            places = [x + (i - (len(names) - 1) / 2) * 0.8 / len(names) for x in range(len(rows))]
            axis.bar(places, middle, 0.8 / len(names), yerr=reach, capsize=2, label=name)
        axis.set_xticks(range(len(rows)), [f"{row['type']} / {row['their_type']}" for row in rows])
        axis.set_title(f"{kind}, tokens per second")
        axis.grid(alpha=0.3, axis="y")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(os.path.join(args.docs, "peers.svg"), metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--docs", required=True, help="where peers.md, peers.json and peers.svg go")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--pair", action="append", default=[], metavar="TYPE:MF:TYPE:GGUF")
    parser.add_argument("--attention", metavar="LAYERS:GGUF", help="attention by itself too, of a model of scripts/random_gguf.py --shape attention")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (5)")
    parser.add_argument("--from", dest="source", help="write the page from this JSON instead of measuring")
    args = parser.parse_args()
    if args.source:
        result = json.load(open(args.source))
    else:
        peers = {name: shlex.split(command) for name, command in (peer.split("=", 1) for peer in args.peer)}
        if not peers or not (args.pair or args.attention):
            parser.error("at least one --peer and a --pair or --attention are needed")
        result = measure(args, peers, [pair.split(":") for pair in args.pair])
    write_page(args, result)
    draw(args, result)


if __name__ == "__main__":
    sys.exit(main())
