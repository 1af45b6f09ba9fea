#!/usr/bin/env python3
"""Measures this machine with `matformer bench` and writes what it prints to DOCS/performance.md, with a picture.

  python3 scripts/performance.py --program build/tools/matformer --docs docs

Nothing else should run meanwhile; it takes about half an hour. --from FILE writes the pages again from the JSON that
an earlier run left beside them. Needs matplotlib for the picture.
"""
import argparse
import json
import os
import platform
import subprocess
import sys


def bench(args, *words, environment=None):
    command = [args.program, "bench", *words, "--rounds", str(args.rounds), "--json"]
    print("+", *(f"{k}={v}" for k, v in (environment or {}).items()), *command, flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    return json.loads(done.stdout)


TYPES = ("f32", "bf16", "q8", "q4")
SHAPE = "1.1b"


def bench_types(args, suite, *words):
    """A suite on the model of every type: a file that was given, or else a random one of the shape."""
    models = dict(pair.split("=", 1) for pair in args.model)
    runs = {}
    for kind in TYPES:
        model = [models[kind]] if kind in models else ["--shape", SHAPE, "--type", kind]
        run = bench(args, suite, *model, *words)
        del run["model"]["file"]
        runs[kind] = {"model": run["model"], **run[suite]}
    return runs


def measure_gemv(args):
    """A token of one FFN of 1.6 G weights: little else than reading."""
    return {kind: bench(args, "decode", "--shape", "gemv", "--type", kind, "--widths", "1")["decode"]["points"][0] for kind in TYPES}


PARTS = {
    "decode": lambda args: bench_types(args, "decode", "--widths", "32"),
    "gemv": measure_gemv,
    "prefill": lambda args: bench_types(args, "prefill"),
    "mixed": lambda args: bench_types(args, "mixed"),
    "kernels": lambda args: measure_kernels(args, bench(args, "views")["roof_cpu"]),
    "train": lambda args: bench(args, "train")["train"],
    "view_seconds": lambda args: bench(args, "views")["view_seconds"],
}


def measure(args):
    """Part by part, saved after each; what is not measured stays as it was."""
    path = os.path.join(args.docs, "performance.json")
    result = json.load(open(path)) if args.part and os.path.exists(path) else {}
    keep_header(result, path, machine=describe_machine(), rounds=args.rounds, cores=os.cpu_count())
    for part in args.part or PARTS:
        result[part] = PARTS[part](args)
        with open(path + ".part", "w") as out:
            out.write(json.dumps(rounded(result)).replace("}, {", "},\n{").replace("}}, ", "}},\n") + "\n")
        os.replace(path + ".part", path)
    return result


def keep_header(result, path, **header):
    """What is measured now joins what is kept, which was measured likewise or goes."""
    for key, value in header.items():
        if result.setdefault(key, value) != value:
            sys.exit(f"{path}: {key} is {result[key]!r} there and {value!r} now; measure all of it again, or elsewhere")


# Which kernels BLIS 0.9 and OpenBLAS shall take: they may not know to take the best here.
AVX2 = {"BLIS_ARCH_TYPE": "3", "OPENBLAS_CORETYPE": "HASWELL"}
AVX512 = {"BLIS_ARCH_TYPE": "0", "OPENBLAS_CORETYPE": "SKYLAKEX"}


def measure_kernels(args, cpu):
    """Beside the peers with their best kernels for this processor; where that is AVX-512, in f32 with those for AVX2 as
    well, which are better at few rows."""
    words = ["kernels", "--threads", "1"]
    best = AVX512 if cpu.startswith("avx512") else AVX2 if cpu == "avx2" else {}
    result = bench(args, *words, environment=best)["kernels"]
    if best is AVX512:
        other = bench(args, *words, "--type", "f32", environment=AVX2)["kernels"]
        points = [p for p in result["points"] if p["type"] == "f32"]
        for point, again in zip(points, other["points"]):
            add_peers(point, again)
    return result


def add_peers(point, again):
    """The peers of the same point, measured with other kernels."""
    for name, peer in again["peers"].items():
        if peer["kernels"] != point["peers"].get(name, {}).get("kernels"):
            point["peers"][f"{name}, {peer['kernels']}"] = peer
    ratios = {name: peer["ratio"] for name, peer in point["peers"].items() if not peer["ceiling"]}
    if ratios:
        point["best_peer"] = min(ratios, key=ratios.get)
        point["ratio"] = ratios[point["best_peer"]]


def rounded(value):
    """To six digits, which is more than is known."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def describe_machine():
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        fields = dict(line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name = fields.get("model name", name)
        if "cpu family" in fields:
            name += f" (family {fields['cpu family']}, model {fields['model']})"
    return name


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]


def decode_lines(result):
    model = result["decode"][TYPES[0]]["model"]
    lines = ["## Decode", "",
             "One token at a time on a random model of {layers} layers, d_model {d_model}, d_ff {d_ff}, {params:,} parameters, on all cores,"
             .format(**model), "at every 1/32 of the width. The roof is reading as many bytes, in turn with it and as often.", ""]
    rows = []
    for ratio in [i / 8 for i in range(1, 9)]:
        cells = [next(p for p in result["decode"][kind]["points"] if abs(p["ratio"] - ratio) < 1e-9) for kind in TYPES]
        rows.append([f"{ratio:.3f}", *(f"{1e3 * p['seconds']:.1f} ms, {1e-9 * p['bytes_per_second']:.0f} GB/s, "
                                       f"{100 * p['share_of_roof']:.0f} %" for p in cells)])
    lines += table(["share of the FFN", *(f"{kind}: time, rate, share of the roof" for kind in TYPES)], rows)
    rows = []
    for kind in TYPES:
        run = result["decode"][kind]
        shares, line = [p["share_of_roof"] for p in run["points"]], run["line"]
        rows.append([kind, f"{100 * shares[-1]:.0f} %", f"{100 * min(shares):.0f}–{100 * max(shares):.0f} %",
                     f"{1e3 * line['constant_seconds']:.2f} ms + {1e6 * line['seconds_per_unit']:.3f} µs", f"{100 * line['worst_deviation']:.1f} %",
                     f"{1e6 * line['constant_beyond_reading_seconds']:.0f} µs", f"{100 * result['gemv'][kind]['share_of_roof']:.0f} %, {result['gemv'][kind]['bytes_per_token'] * 1e-9:.2f} GB"])
    lines += ["All 32 widths: the share of the roof, the straight line of time against hidden units, how far the farthest point is from",
              "it, and what of its constant is not reading. Last, the share of the roof where a token is little else than one FFN, and",
              "what that reads.", "",
              *table(["type", "whole", "least and most", "line", "farthest", "not reading", "one FFN"], rows)]
    return lines + ["![time against width](performance.svg)", ""]


def prefill_lines(result):
    lines = ["## Prefill", "", "A prompt of 512 tokens on the same models: the share of the f32 multiply-add peak for f32 and bf16, of the peak of dot",
             "products of bytes for q8 and q4. Multiplications by weights alone are counted.", ""]
    rows = []
    for i in range(8):
        cells = [(kind, result["prefill"][kind]["points"][i]) for kind in TYPES]
        rows.append([f"{cells[0][1]['ratio']:.3f}", *(f"{p['tokens_per_second']:.0f} tokens/s, "
                                                      f"{100 * p['share_of_int8_peak' if kind in ('q8', 'q4') else 'share_of_peak']:.0f} %"
                                                      for kind, p in cells)])
    return lines + table(["share of the FFN", *TYPES], rows)


def mixed_lines(result):
    rows = []
    for kind in TYPES:
        mixed, widest, one, apart = (result["mixed"][kind][name]["seconds"] for name in ("mixed", "all_widest", "one_widest", "one_by_one"))
        rows.append([kind, f"{1e3 * mixed:.1f} ms", f"{mixed / widest:.2f}", f"{mixed / one:.2f}", f"{apart / mixed:.1f}"])
    return ["## Mixed widths", "", "Eight requests of widths S, S, M, M, L, L, XL and XL (1/8, 1/4, 1/2 and all of the FFN), a token each in one batch, on the",
            "same models: its time, and that against eight XL rows in a batch, against one XL row, and how many times less it is than",
            "eight calls.", "", *table(["type", "time", "to eight XL", "to one XL", "eight calls to it"], rows)]


def kernel_lines(result):
    run = result["kernels"]
    lines = ["## Products", "",
             "One thread, on the two matrices of an FFN and prefixes of them: `up` is cut in its outputs, `down` in its inputs. Of f32 and",
             "bf16 our rate divided by the best peer's at that point (more is better), of q8 and q4 the share of the measured peak of dot",
             f"products of bytes, quantizing the activations included; GFLOP/s or GOP/s of ours in brackets. Our kernels: {run['cpu']}.", ""]
    for kind in dict.fromkeys(p["type"] for p in run["points"]):
        points = [p for p in run["points"] if p["type"] == kind]
        counts = sorted({p["m"] for p in points})
        rows = []
        for matrix, divisor in dict.fromkeys((p["matrix"], p["width_divisor"]) for p in points):
            cells = {p["m"]: p for p in points if (p["matrix"], p["width_divisor"]) == (matrix, divisor)}
            rows.append([matrix, f"1/{divisor}", *(kernel_cell(cells[m]) for m in counts)])
        lines += [f"{kind}. Beside it: {describe_peers(points)}.", "", *table(["matrix", "width", *(f"{m} rows" for m in counts)], rows)]
    return lines


def kernel_cell(point):
    value = f"{point['ratio']:.2f}" if "ratio" in point else "-"
    if point["type"] in ("q8", "q4"):
        value = f"{100 * point['share_of_peak']:.0f} %"
    return f"{value} ({1e-9 * point['ops_per_second']:.0f})"


def describe_peers(points):
    """Each with all kernels that it took."""
    taken = {}
    for point in points:
        for name, peer in point["peers"].items():
            taken.setdefault(name.split(",")[0] + (" (a ceiling)" if peer["ceiling"] else ""), set()).add(peer["kernels"] or "?")
    return "; ".join(f"{name} with {', '.join(sorted(kernels))}" for name, kernels in taken.items()) or "nothing"


def train_lines(result):
    rows = [[t["what"], f"{t['params']:,}", t["gemm"], str(t["tokens_per_step"]), f"{t['tokens_per_second']:.0f}",
             f"{1e-9 * t['flops_per_second']:.0f}", f"{1e-9 * t['peak_flops_per_second']:.0f}", f"{100 * t['share_of_peak']:.0f} %",
             f"{t['joint_step']:.2f} ({t['joint_step_by_arithmetic']:.2f})" if "joint_step" in t else "-"]
            for t in result["train"]]
    return ["## Training", "", "A joint step over S, M, L and XL is given as a multiple of a step of XL alone, and in brackets what the",
            "arithmetic of the widths predicts.", "",
            *table(["model", "parameters", "products by", "tokens a step", "tokens/s", "GFLOP/s", "peak GFLOP/s", "share of the peak",
                    "joint step"], rows)]


def write_page(args, result):
    views = ", ".join(f"{what}: {1e9 * seconds:.0f} ns" for what, seconds in result["view_seconds"].items())
    lines = ["<!-- written by scripts/performance.py -->", "# Performance", "",
             f"Machine: {result['machine']}, {result['cores']} cores. Medians of {result['rounds']}; both sides of a ratio in turn in one run.",
             "Made by `scripts/performance.py`, which runs `matformer bench`; `performance.json` has every number.", "",
             *decode_lines(result), *prefill_lines(result), *mixed_lines(result), *kernel_lines(result), *train_lines(result),
             "## Views", "", f"Creating and closing a view. {views}.", ""]
    with open(os.path.join(args.docs, "performance.md"), "w") as out:
        out.write("\n".join(lines))


def draw(args, result):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "performance"  # the same picture from the same numbers
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for kind, run in result["decode"].items():
        units = [p["width"] for p in run["points"]]
        dots = axes.plot(units, [1e3 * p["seconds"] for p in run["points"]], "o", markersize=3, label=kind)
        axes.plot(units, [1e3 * p["bytes_per_token"] / p["roof_bytes_per_second"] for p in run["points"]], ":",
                  color=dots[0].get_color(), label=f"{kind}: reading as many bytes")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hidden units of all layers")
    axes.set_ylabel("ms per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(os.path.join(args.docs, "performance.svg"), metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/tools/matformer")
    parser.add_argument("--docs", required=True, help="where performance.md, .json and .svg go")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure this again and keep the rest (all)")
    parser.add_argument("--model", action="append", default=[], metavar="TYPE=FILE",
                        help=f"of the {SHAPE} shape; without, a random one is written each time")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each point (5)")
    parser.add_argument("--from", dest="source", help="write the pages from this JSON instead of measuring")
    args = parser.parse_args()
    if args.source:
        result = json.load(open(args.source))
    else:
        result = measure(args)
    if all(part in result for part in PARTS):
        write_page(args, result)
        draw(args, result)


if __name__ == "__main__":
    sys.exit(main())
