"""test_eval.py MATFORMER WRITE_LOGITS MODEL STORY - what `matformer eval` says is what NumPy computes, in f64 and from
the definitions of docs/cli.md, out of the logits of timelines that were run one by one.

MODEL is what make_text_model writes: a token is a byte, and 256 begins a text."""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77  # for meson

try:
    import numpy as np
except ImportError:
    print("numpy is missing; on Debian: apt-get install python3-numpy")
    sys.exit(SKIPPED)

matformer, write_logits, model, story = sys.argv[1:]
CONTEXT, SPAN, N_TEXT, START = 48, 16, 400, 256
folder = tempfile.TemporaryDirectory()
root = pathlib.Path(folder.name)
text = pathlib.Path(story).read_bytes()[:N_TEXT]
(root / "text.txt").write_bytes(text)
tokens = np.array([START, *text], dtype=np.int32)
WINDOWS = [(at, min(CONTEXT, len(tokens) - 1 - at)) for at in range(0, len(tokens) - 1, CONTEXT)]


def evaluate(*arguments):
    command = [matformer, "eval", model, "--text", str(root / "text.txt"), "--context", str(CONTEXT), "--threads", "1",
               "--json", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def log_probabilities(window, *schedule):
    """[n][n_vocab] after each token of the window, f64."""
    at, n = window
    (root / "tokens").write_bytes(tokens[at:at + n].tobytes())
    subprocess.run([write_logits, model, str(root / "tokens"), str(root / "logits"), *schedule], check=True)
    logits = np.fromfile(root / "logits", dtype=np.float32).reshape(n, -1).astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def losses(logp, window):
    at, n = window
    return -logp[np.arange(n), tokens[at + 1:at + n + 1]]


def divergences(reference, logp):
    return (np.exp(reference) * (reference - logp)).sum(axis=1)


def agreements(reference, logp):
    return (reference.argmax(axis=1) == logp.argmax(axis=1)).astype(np.float64)


def standard_error(values):
    return np.std(values, ddof=1) / math.sqrt(len(values))


def check(what, said, computed, tolerance=2e-6):
    if not np.allclose(said, computed, rtol=tolerance, atol=tolerance):
        sys.exit(f"{what}: eval says {said}, NumPy {computed}")


def check_views():
    out = evaluate("--against", "L")
    reference = [log_probabilities(w, "0:L") for w in WINDOWS]
    full = [i for i, (_, n) in enumerate(WINDOWS) if n == CONTEXT]
    assert len(full) == len(WINDOWS) - 1 > 2, "the last window is to be a short one"
    check("tokens", out["tokens"], sum(n for _, n in WINDOWS))
    for view in out["views"]:
        size = view["size"]
        logp = [log_probabilities(w, f"0:{size}") for w in WINDOWS]
        by_token = {"loss": [losses(a, w) for a, w in zip(logp, WINDOWS)],
                    "kl": [divergences(r, a) for r, a in zip(reference, logp)],
                    "same_top_token": [agreements(r, a) for r, a in zip(reference, logp)]}
        own = [losses(r, w) for r, w in zip(reference, WINDOWS)]
        difference = [a - b for a, b in zip(by_token["loss"], own)]
        for key, values in by_token.items():
            check(f"{size} {key}", view[key], np.concatenate(values).mean())
            at = [np.mean([v[p] for v in values if len(v) > p]) for p in range(CONTEXT)]
            check(f"{size} {key} by position", view["positions"][key], at)
        check(f"{size} tokens by position", view["positions"]["tokens"],
              [sum(n > p for _, n in WINDOWS) for p in range(CONTEXT)])
        check(f"{size} loss error", view["loss_error"], standard_error([by_token["loss"][i].mean() for i in full]))
        check(f"{size} difference", view["loss_difference"], np.concatenate(difference).mean())
        check(f"{size} difference error", view["loss_difference_error"],
              standard_error([difference[i].mean() for i in full]))
        check(f"{size} perplexity", view["perplexity"], math.exp(view["loss"]))


def check_mixed():
    history = CONTEXT - SPAN
    out = evaluate("--mixed", "S:L", "--span", str(SPAN), "--written", "all,8,999,8,20")
    windows = [w for w in WINDOWS if w[1] == CONTEXT]
    check("windows", out["windows"], len(windows))
    rows = iter(out["mixed"])
    for reader, writer in (("S", "L"), ("L", "S")):
        alone = [log_probabilities(w, f"0:{reader}")[history:] for w in windows]
        own = np.array([losses(log_probabilities(w, f"0:{reader}"), w)[history:].mean() for w in windows])
        row = next(rows)
        assert (row["reader"], row["writer"], row["written"]) == (reader, reader, 0), row
        check(f"{reader} alone", row["loss"], own.mean())
        check(f"{reader} alone, error", row["loss_error"], standard_error(own))
        for written in (8, 20, history):
            row = next(rows)
            assert (row["reader"], row["writer"], row["written"]) == (reader, writer, written), row
            schedule = [f"{history - written}:{writer}", f"{history}:{reader}"]
            if written < history:
                schedule.insert(0, f"0:{reader}")
            mixed = [log_probabilities(w, *schedule) for w in windows]
            loss = np.array([losses(a, w)[history:].mean() for a, w in zip(mixed, windows)])
            what = f"{reader} after {written} of {writer}"
            check(what, row["loss"], loss.mean())
            check(what + ", error", row["loss_error"], standard_error(loss))
            check(what + ", difference", row["loss_difference"], (loss - own).mean())
            check(what + ", its error", row["loss_difference_error"], standard_error(loss - own))
            check(what + ", KL", row["kl"], np.mean([divergences(a, b[history:]) for a, b in zip(alone, mixed)]))
            check(what + ", top token", row["same_top_token"],
                  np.mean([agreements(a, b[history:]) for a, b in zip(alone, mixed)]))
            assert abs(row["loss_difference"]) > 1e-6, "the writer left no trace: nothing was mixed"
    assert next(rows, None) is None


check_views()
check_mixed()
print("ok")
