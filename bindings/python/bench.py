#!/usr/bin/env python3
"""What Python costs: tokens per second of Session.generate() beside those of mf_generate() itself.

    MATFORMER_LIBRARY=build/lib/libmatformer.so PYTHONPATH=bindings/python bindings/python/bench.py models/tales.mf
    ... bench.py models/tales.mf random.mf --docs docs/python.md

The two take turns in this process, on one executor and the same tokens: the library's own call has no callback, or one
in Python that does nothing, and the package's iterator gives every event to an empty loop. Medians over the turns of
each one's time divided by that of the call beside it, with the quartiles. With --threads 1, where nobody spins, also of
the processor time, which another program that is busy meanwhile hardly changes.

`--threads-scale`: two sessions that generate on two threads, each with an executor of one thread, against one after the
other; with the library's call, which does not come back to Python, and with the iterator.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import matformer
from matformer import Executor, Session, Submodel, _abi
from matformer._library import lib

PROMPT = [1, 2, 3, 4, 5]


def library_call(executor: Executor, session: Session, view: Submodel, n: int, on_token: Any) -> None:
    prompt = (ctypes.c_int32 * len(PROMPT))(*PROMPT)
    options = _abi.mf_generate_options(struct_size=ctypes.sizeof(_abi.mf_generate_options),
                                       tokens=ctypes.addressof(prompt), n_token=len(PROMPT), max_tokens=n, ignore_eos=1)
    if on_token is not None:
        options.on_token = on_token
    status = lib.mf_generate(executor._live(), session._live(), view._live(), options, None, None)
    assert status == 0, status


def iterator(session: Session, view: Submodel, n: int) -> None:
    for _ in session.generate(PROMPT, view, max_tokens=n, ignore_eos=True):
        pass


def quartiles(values: List[float]) -> Dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def measure_generation(model: matformer.Model, size: str, n: int, rounds: int, threads: int) -> Dict[str, Any]:
    executor = Executor(model, threads=threads)
    session = Session(model, executor=executor, max_positions=len(PROMPT) + n + 1)
    view = Submodel(model, size)
    nothing = _abi.mf_generate_options_on_token(lambda user, event: 0)
    calls: Dict[str, Callable[[], None]] = {
        "library": lambda: library_call(executor, session, view, n, None),
        "callback": lambda: library_call(executor, session, view, n, nothing),
        "iterator": lambda: iterator(session, view, n),
    }
    seconds: Dict[str, List[float]] = {name: [] for name in calls}
    processor: Dict[str, List[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls) if turn % 2 else list(calls)[::-1]:
            session.rewind()
            begin, cpu_begin = time.perf_counter(), time.process_time()
            calls[name]()
            if turn > 0:  # the first warms up
                processor[name].append(time.process_time() - cpu_begin)
                seconds[name].append(time.perf_counter() - begin)
    rate = n / statistics.median(seconds["library"])
    ratios = {name: quartiles([a / b for a, b in zip(seconds["library"], seconds[name])])
              for name in ("callback", "iterator")}
    result = {"size": size, "tokens": n, "rounds": rounds, "threads": threads, "tokens_per_second": rate,
              "speed_relative_to_library": ratios}
    if threads == 1:
        result["processor_time_relative_to_library"] = {
            name: quartiles([b / a for a, b in zip(processor["library"], processor[name])]) for name in ratios}
        result["processor_us_per_token"] = {name: 1e6 * statistics.median(values) / n
                                            for name, values in processor.items()}
    return result


def measure_threads(model: matformer.Model, size: str, n: int, rounds: int) -> Dict[str, Any]:
    sessions = [Session(model, executor=Executor(model, threads=1), max_positions=len(PROMPT) + n + 1)
                for _ in range(2)]
    view = Submodel(model, size)
    calls: Dict[str, Callable[[Session], None]] = {
        "library": lambda session: library_call(session.executor, session, view, n, None),
        "iterator": lambda session: iterator(session, view, n),
    }
    ratios: Dict[str, List[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in list(calls) if turn % 2 else list(calls)[::-1]:
            for session in sessions:
                session.rewind()
            begin = time.perf_counter()
            for session in sessions:
                calls[name](session)
            between = time.perf_counter()
            for session in sessions:
                session.rewind()
            threads = [threading.Thread(target=calls[name], args=(session,)) for session in sessions]
            middle = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if turn > 0:
                ratios[name].append((between - begin) / (time.perf_counter() - middle))
    return {"size": size, "tokens": n, "rounds": rounds,
            "work_of_two_threads": {name: quartiles(values) for name, values in ratios.items()}}


# ---- Tables ----

TABLE_BEGIN, TABLE_END = "<!-- written by bindings/python/bench.py -->\n", "<!-- end -->\n"


def percent(ratio: Dict[str, float]) -> str:
    return f"{100 * ratio['median']:.1f} % ({100 * ratio['low']:.1f} to {100 * ratio['high']:.1f})"


def times(ratio: Dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def tokens_of_a_turn(model: matformer.Model, size: str) -> int:
    """As many as take a tenth of a second, so that what a generation costs before its first token hardly counts."""
    generation = Session(model).generate(PROMPT, size, max_tokens=32, ignore_eos=True)
    generation.read()
    assert generation.result is not None
    return max(8, min(400, int(0.1 * 32 / generation.result.generate_seconds)))


def write_table(models: List[matformer.Model], names: List[str], rounds: int) -> str:
    generation: List[str] = []
    scaling: List[str] = []
    for model, name in zip(models, names):
        narrowest, widest = model.granularities[0], model.granularities[-1]
        for size, threads in ((narrowest, 0), (widest, 0), (widest, 1)):
            result = measure_generation(model, size, tokens_of_a_turn(model, size), rounds, threads)
            relative = result["speed_relative_to_library"]
            generation.append(f"| {name}, {size} | {threads or 'all'} | {result['tokens_per_second']:.0f} | "
                              f"{percent(relative['callback'])} | {percent(relative['iterator'])} |")
        scale = measure_threads(model, widest, tokens_of_a_turn(model, widest), rounds)["work_of_two_threads"]
        scaling.append(f"| {name}, {widest} | {times(scale['library'])} | {times(scale['iterator'])} |")
    return "\n".join([
        f"On {len(os.sched_getaffinity(0))} cores, the library at its level {models[0].info.cpu}; medians of {rounds} turns "
        "with the quartiles.", "",
        "| model, size | threads | tokens/s of the library | with an empty callback | `generate` |",
        "|---|---|---|---|---|",
        *generation, "",
        "Two threads of Python, each with a session and an executor of one thread, do so many times the work of one:",
        "",
        "| model, size | the library's call | `generate` |", "|---|---|---|", *scaling]) + "\n"


def replace_table(file: Path, table: str) -> None:
    text = file.read_text(encoding="utf-8")
    begin, end = text.index(TABLE_BEGIN) + len(TABLE_BEGIN), text.index(TABLE_END)
    written = file.with_name(file.name + ".new")
    written.write_text(f"{text[:begin]}\n{table}\n{text[end:]}", encoding="utf-8")
    os.replace(written, file)


# ---- The program ----

def print_generation(result: Dict[str, Any]) -> None:
    print(f"mf_generate, no callback: {result['tokens_per_second']:.0f} tokens/s")
    for name, what in (("callback", "with an empty callback in Python"), ("iterator", "Session.generate()")):
        print(f"{what}: {percent(result['speed_relative_to_library'][name])} of that speed")
        if "processor_us_per_token" in result:
            per_token = result["processor_us_per_token"]
            print(f"    processor time: {percent(result['processor_time_relative_to_library'][name])}, "
                  f"{per_token[name]:.1f} us a token beside {per_token['library']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What Python costs, against the library's own calls.")
    parser.add_argument("model", nargs="+")
    parser.add_argument("--size", help="which submodel (the widest)")
    parser.add_argument("--tokens", type=int, default=0, help="generated in each turn (as many as take 0.1 s)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each (30)")
    parser.add_argument("--threads", type=int, default=0, help="of the executor (0: one per usable core)")
    parser.add_argument("--threads-scale", action="store_true", help="two sessions on two threads")
    parser.add_argument("--docs", type=Path, help="write both, of all models, into the table of this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    models = [matformer.open(path) for path in arguments.model]
    if arguments.docs:
        replace_table(arguments.docs, write_table(models, [Path(path).name for path in arguments.model],
                                                  arguments.rounds))
        return
    for model in models:
        size = arguments.size or model.granularities[-1]
        n = arguments.tokens or tokens_of_a_turn(model, size)
        if arguments.threads_scale:
            result = measure_threads(model, size, n, arguments.rounds)
        else:
            result = measure_generation(model, size, n, arguments.rounds, arguments.threads)
        if arguments.json:
            json.dump(result, sys.stdout, indent=2)
        elif arguments.threads_scale:
            for name, ratio in result["work_of_two_threads"].items():
                print(f"{name}: two threads do {times(ratio)} times the work of one")
        else:
            print_generation(result)


if __name__ == "__main__":
    main()
