#!/bin/sh
# test_cli.sh - the program from outside: help, JSON, errors, exit statuses, determinism.
#
#     test_cli.sh MATFORMER MODEL STORY [TRAIN: yes|no]
#
# MODEL is what make_text_model writes: three layers, S, M and L, and a byte a token. One thread mostly: more
# would wait for each other where other tests use the processors.
matformer=$1 model=$2 story=$3 train=${4:-no}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0

fail() {
    echo "FAIL: $*"
    failed=1
}

# expect STATUS ARGUMENT...: the exit status of the program; its output is left in $folder/out and $folder/err.
expect() {
    want=$1
    shift
    "$matformer" "$@" >"$folder/out" 2>"$folder/err" </dev/null
    got=$?
    [ "$got" -eq "$want" ] || fail "exit status $got, not $want: matformer $*: $(head -c 300 "$folder/err")"
}

says() {
    grep -q -e "$1" "$folder/${2:-err}" || fail "\"$1\" is not in: $(head -c 300 "$folder/${2:-err}")"
}

# json EXPRESSION: the output is JSON and the expression over it, as `o`, holds.
json() {
    python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); sys.exit(not eval(sys.argv[2]))' \
        "$folder/out" "$1" || fail "JSON: $1"
}

# Help and version.
commands="demo info run eval plan convert export bench"
[ "$train" = yes ] && commands="$commands train"
expect 0 --help
for command in $commands; do
    says "^  $command " out
done
for command in $commands; do
    expect 0 "$command" --help
    says "^Usage: matformer $command" out
    says "--json" out
done
expect 0 --version
says "^matformer [0-9]" out

# Output that cannot be written is a failure, of whatever prints it.
full() {
    "$matformer" "$@" >/dev/full 2>"$folder/err" </dev/null
    [ $? -eq 1 ] || fail "output that could not be written: matformer $*"
    says "standard output: "
}
if [ -w /dev/full ]; then
    full --help
    full --version
    full info --help
    full info "$model"
    full info "$model" --json
    full run "$model" -p x -n 1000000 --ignore-eos --threads 1
fi

# A standard stream that is closed is not taken by a file that is opened later.
"$matformer" run "$model" -n 1 --threads 1 >"$folder/out" 2>"$folder/err" <&-
[ $? -eq 1 ] || fail "a closed standard input was read"
says "standard input: "
"$matformer" info "$model" >&- 2>"$folder/err"
[ $? -eq 1 ] || fail "a closed standard output was written"

# Wrong usage: status 2, and where to get help.
expect 2
expect 2 nonsense
says "no command \"nonsense\""
for command in $commands; do
    expect 2 "$command" --nonsense
    says "there is no option --nonsense"
    says "matformer $command --help"
done
expect 2 info
expect 2 info "$model" "$model"
expect 2 run "$model" --prompt x --tokens many
says "wants a whole number"
expect 2 run "$model" --prompt x --tokens
says "wants a value"
expect 2 run "$model" --prompt x --then S --schedule 0:S
expect 2 eval "$model"
expect 2 eval "$model" --text "$0" --mixed S:L --against L
expect 2 convert "$model"
expect 2 convert "$model" "$folder/x.mf" --type u8
says "f32|bf16|f16|q8|q4"
expect 2 bench nonsense

# Failures: status 1, the file and the reason in a sentence.
expect 1 info "$folder/missing.mf"
says "missing.mf"
printf 'not a model' >"$folder/text.mf"
expect 1 info "$folder/text.mf"
says "text.mf"
head -c 200000 "$model" >"$folder/short.mf"
expect 1 info "$folder/short.mf"
says "short.mf"
{ head -c 300000 "$model"; printf 'damage'; tail -c +300007 "$model"; } >"$folder/damaged.mf"
expect 1 info --verify "$folder/damaged.mf"
says "damaged"
expect 1 run "$model" --prompt x --size HUGE
says "HUGE"
expect 1 run "$model" --prompt x --size ffn=33x3
expect 1 run "$model" --prompt x --schedule 5
says "POSITION:SIZE"
expect 1 eval "$model" --text "$folder/missing.txt"
says "missing.txt"

# info
expect 0 info "$model"
says "^L  " out
expect 0 info --verify --tensors "$model"
says "layers.0.attn.q" out
expect 0 info --verify --tensors --json "$model"
json 'o["family"] == "matlm" and o["verified"] and o["tokenizer"] and o["shape"]["layers"] == 3'
json '[g["size"] for g in o["granularities"]] == ["S", "M", "L"]'
json '[g["params"] for g in o["granularities"]] == sorted(g["params"] for g in o["granularities"])'
json 'len(o["regions"]) == 3 and any(t["name"] == "embed" for t in o["tensors"])'

# run: the same seed writes the same text, another seed another one.
text="The old king"
expect 0 run "$model" -p "$text" -n 24 -t 9 --seed 5 --threads 2
mv "$folder/out" "$folder/first"
expect 0 run "$model" -p "$text" -n 24 -t 9 --seed 5 --threads 1
cmp -s "$folder/first" "$folder/out" || fail "the same seed wrote another text"
expect 0 run "$model" -p "$text" -n 24 -t 9 --seed 6 --threads 1
cmp -s "$folder/first" "$folder/out" && fail "another seed wrote the same text"
says "tokens/s"
expect 0 run "$model" -p "$text" -n 4 --quiet --threads 1
[ -s "$folder/err" ] && fail "--quiet wrote to standard error"
printf '%s' "$text" | "$matformer" run "$model" -n 24 -t 9 --seed 5 --threads 1 >"$folder/out" 2>/dev/null
cmp -s "$folder/first" "$folder/out" || fail "a piped prompt wrote another text"

# run: a schedule that was printed replays to the same tokens.
expect 0 run "$model" -p "$text" -n 12 -t 9 --size M --then L --at 6 --top 3 --json --threads 1
json 'len(o["tokens"]) == 12 and o["finish"] == "length" and len(o["tokens"][0]["top"]) == 3'
json '"".join(t["text"] for t in o["tokens"]) == o["text"]'
json 'len(o["schedule"]) == 2 and o["schedule"][1]["position"] == o["prompt_tokens"] + 6'
schedule=$(python3 -c 'import json, sys
print(",".join("%d:%s" % (s["position"], s["size"]) for s in json.load(open(sys.argv[1]))["schedule"]))' "$folder/out")
python3 -c 'import json, sys; print([t["token"] for t in json.load(open(sys.argv[1]))["tokens"]])' "$folder/out" >"$folder/first"
expect 0 run "$model" -p "$text" -n 12 -t 9 --schedule "$schedule" --json --threads 1
python3 -c 'import json, sys; print([t["token"] for t in json.load(open(sys.argv[1]))["tokens"]])' "$folder/out" >"$folder/second"
cmp -s "$folder/first" "$folder/second" || fail "the schedule \"$schedule\" did not replay"
# A draft: greedy the same text; with a temperature one that its seed writes again.
expect 0 run "$model" -p "$text" -n 24 -t 0 --quiet --ignore-eos --threads 1
cp "$folder/out" "$folder/greedy"
expect 0 run "$model" -p "$text" -n 24 -t 0 --ignore-eos --draft S --draft-tokens 3 --threads 1
cmp -s "$folder/out" "$folder/greedy" || fail "a draft changed a greedy text"
says "S drafted"
expect 0 run "$model" -p "$text" -n 24 -t 9 --ignore-eos --draft S --draft-tokens 3 --json --threads 1
json 'o["draft"]["size"] == "S" and 0 <= o["draft"]["accepted_tokens"] <= o["draft"]["drafted_tokens"]'
json 'o["draft"]["verifications"] > 0 and o["generated_tokens"] == 24'
expect 2 run "$model" -p "$text" --draft-tokens 3
expect 2 run "$model" -p "$text" --draft S --draft-tokens 17
expect 1 run "$model" -p "$text" --draft "S;heads=2x3"
says "key/value heads"
expect 1 run "$model" -p "$text" --draft plan
says "matformer plan"
expect 0 run "$model" -p "$text" -n 12 -t 0 --size 0.5 --json --threads 1
json 'all(t["logprob"] <= 0 for t in o["tokens"])'

# run: Ctrl-C stops the writing with status 130.
"$matformer" run "$model" -p "$text" -n 1000000 --threads 1 --ignore-eos --json >"$folder/out" 2>/dev/null &
writer=$!
# Programs in the background ignore the signal until they ask for it, which a large session takes time to come to.
tries=0
while ! grep -q '^SigBlk:.*4002$' "/proc/$writer/status" && [ $tries -lt 300 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
sleep 0.3
kill -INT "$writer"
wait "$writer"
[ $? -eq 130 ] || fail "an interrupted run did not end with status 130"
json 'o["finish"] == "interrupted" and len(o["tokens"]) == o["generated_tokens"] > 0'

# Bytes that are no UTF-8 print as U+FFFD, wherever they come from.
odd=$(printf 'a\377b')
cp "$model" "$folder/$odd.mf"
expect 0 run "$folder/$odd.mf" -p "$odd" -n 1 --json --threads 1
json 'o["file"].endswith("a\ufffdb.mf")'
expect 0 bench views "$folder/$odd.mf" --rounds 5 --json --threads 1
json 'o["model"]["file"].endswith("a\ufffdb.mf")'

# A file that ends where a region does: its narrower sizes are there, and are what is offered.
expect 0 info "$model" --tensors --json
cut=$(python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))["regions"][1]
print(r["offset"] + r["stored_bytes"])' "$folder/out")
head -c "$cut" "$model" >"$folder/cut.mf"
expect 0 info "$folder/cut.mf" --verify
says "not verified: the last 1 of 3 shells" out
says "^L .* not in the file" out
expect 0 info "$folder/cut.mf" --verify --json
json 'not o["verified"] and o["shells_verified"] == o["shells_resident"] == 2'
json '[g["in_file"] for g in o["granularities"]] == [True, True, False]'
expect 0 run "$folder/cut.mf" -p x -n 2 --json --threads 1
json 'o["size"] == "M"'
head -c 300 "$story" >"$folder/text.txt"
expect 0 eval "$folder/cut.mf" --text "$folder/text.txt" --json --threads 1
json '[v["size"] for v in o["views"]] == ["S", "M"]'
expect 0 demo --model "$folder/cut.mf" --text "$folder/text.txt" -p "$odd" --json --threads 1
json '[v["size"] for v in o["views"]] == ["S", "S+M", "M"] and o["prompt"] == "a\ufffdb"'

# eval: a cache that another size wrote. Read by its writer it is its own; what is asked for has to make sense.
expect 0 eval "$model" --text "$folder/text.txt" --context 48 --span 16 --mixed M:M --written 8,all --json --threads 1
json 'o["windows"] == 6 and [r["written"] for r in o["mixed"]] == [0, 8, 32] * 2'
json 'all(abs(r.get("loss_difference", 0)) < 1e-9 and abs(r.get("kl", 0)) < 1e-6 for r in o["mixed"])'
expect 0 eval "$model" --text "$folder/text.txt" --context 48 --span 16 --mixed S:L --threads 1
says "L the last 32 " out
expect 1 eval "$model" --text "$folder/text.txt" --mixed S --threads 1
says "two sizes"
expect 1 eval "$model" --text "$folder/text.txt" --context 16 --span 16 --mixed S:L --threads 1
says "above --span"
expect 1 eval "$model" --text "$folder/text.txt" --context 48 --span 16 --mixed S:L --written 1,x --threads 1
says "wants up to 16 numbers"
expect 1 eval "$model" --text "$folder/text.txt" --context 48 --span 16 --mixed S:L --written 33 --threads 1
says "has room"

# bench governor: every load is run, and a speed that is held by all sizes is held by the widest.
expect 0 bench governor "$model" --seconds 0.3 --target 1 --threads 2 --json
json 'o["governor"]["target_tokens_per_second"] == 1 and o["governor"]["narrowed"] == 0'
json 'sorted(set(s["sessions"] for s in o["governor"]["samples"])) == [4, 6, 8]'
json 'all(s["bytes_share"] == 1 and s["tokens_per_second"] > 1 for s in o["governor"]["samples"])'

# eval: what has no end, or is waited for, is no text.
mkfifo "$folder/fifo"
for path in /dev/zero "$folder/fifo"; do
    expect 1 eval "$model" --text "$path"
    says "$path: not a regular file"
done

# eval: a wider view against itself has no divergence; all sizes in one batch equal one alone.
head -c 1500 "$story" >"$folder/text.txt"
expect 0 eval "$model" --text "$folder/text.txt" --context 64 --threads 1
says "bits per byte" out
expect 0 eval "$model" --text "$folder/text.txt" --context 64 --against L --json --threads 1
json '[v["size"] for v in o["views"]] == ["S", "M", "L"] and abs(o["views"][2]["kl"]) < 1e-6'
json 'o["views"][2]["same_top_token"] == 1 and o["views"][0]["kl"] > 0'
json 'all(v["loss"] > 0 for v in o["views"])'
loss=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["views"][1]["loss"])' "$folder/out")
expect 0 eval "$model" --text "$folder/text.txt" --context 64 --against L --positions --threads 1
says "^Loss, by the position" out
says "^Same top token, by the position" out
says "^ *32-63 " out
expect 0 eval "$model" "$folder/text.txt" --context 64 --size M --json --threads 1
json "o['views'][0]['loss'] == $loss"

# demo
head -c 400 "$story" >"$folder/text.txt"
expect 0 demo --model "$model" --text "$folder/text.txt" --threads 1
says "Once upon a time" out
expect 0 demo --model "$model" --text "$folder/text.txt" --json --threads 1
json 'len(o["views"]) == 5 and [s["size"] for s in o["timeline"]][0] == "S" and len(o["timeline"]) == 3'

# The type of the cache: the losses are near each other, and not the same.
for cache in f32 bf16 q8; do
    expect 0 eval "$model" --text "$folder/text.txt" --size L --cache $cache --json --threads 1
    cp "$folder/out" "$folder/loss-$cache"
    expect 0 run "$model" -p "$text" -n 4 --cache $cache --quiet --threads 1
done
python3 -c '
import json, sys
exact, *others = [json.load(open(path))["views"][0]["loss"] for path in sys.argv[1:]]
assert all(0 < abs(loss - exact) < 0.02 for loss in others), (exact, others)
' "$folder/loss-f32" "$folder/loss-bf16" "$folder/loss-q8" || fail "--cache rounds nothing, or too much"
expect 2 run "$model" -p "$text" --cache q9

# The arithmetic: what is in use is said, and fast is near exact, or the same where there is no kernel for it.
for arithmetic in exact fast; do
    expect 0 eval "$model" --text "$folder/text.txt" --size L --arithmetic $arithmetic --json --threads 1
    cp "$folder/out" "$folder/loss-$arithmetic"
    expect 0 run "$model" -p "$text" -n 4 --arithmetic $arithmetic --quiet --threads 1
    expect 0 info "$model" --arithmetic $arithmetic --json
done
python3 -c '
import json, sys
exact, fast = [json.load(open(path)) for path in sys.argv[1:]]
difference = abs(exact["views"][0]["loss"] - fast["views"][0]["loss"])
assert exact["arithmetic"] == "exact" and (0 < difference < 0.02 if fast["arithmetic"] == "fast" else difference == 0)
' "$folder/loss-exact" "$folder/loss-fast" || fail "--arithmetic fast is neither fast nor exact"
expect 2 run "$model" -p "$text" --arithmetic loose
expect 0 bench prefill "$model" --arithmetic fast --rounds 5 --json --threads 1
json 'o["model"]["arithmetic"] == "exact" or all(p.get("share_of_bf16_peak", 1) > 0 for p in o["prefill"]["points"])'

# bench
expect 0 bench decode "$model" --rounds 5 --widths 1 --json --threads 1
json '[p["ratio"] for p in o["decode"]["points"]] == [1] and "line" not in o["decode"]'
expect 2 bench decode "$model" --widths 0
expect 0 bench views "$model" --rounds 5 --json --threads 1
json 'all(0 < s < 1e-3 for s in o["view_seconds"].values())'
for what in decode prefill; do
    expect 0 bench $what "$model" --rounds 5 --json --threads 1
    json "len(o['$what']['points']) == 8 and all(p['seconds'] > 0 for p in o['$what']['points'])"
done

expect 0 bench mixed "$model" --rounds 5 --json --threads 1
json '(set(o["mixed"]) == {"mixed", "all_widest", "one_widest", "one_by_one"} and
       all(abs(m["mixed_to_this"] * m["seconds"] / o["mixed"]["mixed"]["seconds"] - 1) < 1e-6 for m in o["mixed"].values()))'
expect 0 bench switch "$model" --rounds 5 --json --threads 1
json '(abs(o["switch"]["narrow"]["to_mean"] + o["switch"]["wide"]["to_mean"] - 2) < 1e-6 and
       all(o["switch"][w][k] > 0 for w in ("first_narrow", "first_wide") for k in ("steady_seconds", "first_seconds")))'
expect 0 bench speculate "$model" --draft S --draft-tokens 2,0 --rounds 5 --json --threads 1
json 'len(o["speculate"]["trials"]) == 2 and o["speculate"]["trials"][0]["ceiling"] > 0'
json '0 <= o["speculate"]["drafts"][0]["acceptance"] <= 1'
expect 0 bench speculate "$model" --draft M --draft-tokens 1 --text "$story" -t 0.8 --rounds 5 --threads 1
says "M " out
expect 2 bench speculate
expect 1 bench speculate "$model" --draft-tokens 1,x
says "0 adapts"
expect 0 bench attention --positions 512 --heads 4 --kv-heads 2 --d-head 32 --rounds 5 --json --threads 2
json '[(p["threads"], p["cache"]) for p in o["attention"]["points"]] == [(t, c) for t in (1, 2) for c in ("f32", "bf16", "q8")]'
json 'all(p["decode_seconds"] > 0 and p["prefill_seconds"] > 0 for p in o["attention"]["points"])'
expect 2 bench attention --heads 6 --kv-heads 4

# bench kernels: a small FFN, of each type; and plugins, those beside the program and others.
kernels="bench kernels --d-model 32 --d-ff 256 --rounds 5 --threads 1"
expect 0 $kernels --rows 3 --json
json '[(p["type"], p["matrix"], p["width_divisor"]) for p in o["kernels"]["points"]] == [
    (t, "32x256 " + m, d) for t in ("f32", "bf16", "q8", "q4") for m in ("up", "down") for d in (8, 4, 2, 1)]'
json 'all(p["m"] == 3 and p["ops_per_second"] > 0 and p["share_of_peak"] > 0 for p in o["kernels"]["points"])'
expect 0 $kernels --quick --type bf16 --json
json '[(p["m"], p["width_divisor"]) for p in o["kernels"]["points"]] == 2 * [(m, d) for d in (8, 1) for m in (1, 16, 128, 512)]'
json 'all(("weight_bytes_per_second" in p) == (p["m"] == 1) for p in o["kernels"]["points"])'
peers=$(dirname "$matformer")/peers
for type in f32 f16 q8; do
    expect 0 $kernels --rows 2 --type $type --json --peer "ours=$peers/peer_matformer.so:$type" --peer "none=$peers/peer_cblas.so:x"
    json 'all(set(p["peers"]) == {"ours"} and p["best_peer"] == "ours" and p["ratio"] > 0 for p in o["kernels"]["points"])'
done
expect 0 $kernels --rows 2 --type f32 --threads 2 --peer "twin=$peers/peer_matformer.so:f32"
says "twin" out
expect 1 $kernels --rows 2 --type f32 --peer "crude=$peers/peer_matformer.so:q4"
says "crude: its product of 2 x .* differs from ours"
expect 1 $kernels --peer "gone=$folder/gone.so"
says "$folder/gone.so: No such file or directory. A --peer is NAME=PATH"
echo text >"$folder/text.so"
expect 1 $kernels --peer "text=$folder/text.so"
says "$folder/text.so: .*A --peer is NAME=PATH"
expect 1 $kernels --peer "$folder/text.so"
says "has no name"
expect 1 $kernels --d-ff 320
says "--d-ff of whole 256s"
expect 2 $kernels --rows 513

# bench: a signal while the model is written leaves no file.
mkdir "$folder/tmp"
TMPDIR=$folder/tmp "$matformer" bench views --threads 1 >"$folder/out" 2>&1 &
writer=$!
tries=0
while [ -z "$(ls "$folder/tmp")" ] && [ $tries -lt 500 ]; do
    tries=$((tries + 1))
    sleep 0.02
done
kill -TERM "$writer"
wait "$writer"
[ $? -eq 143 ] || fail "a bench that SIGTERM ended did not say so"
[ -z "$(ls "$folder/tmp")" ] || fail "bench left $(ls "$folder/tmp")"

# convert: what was asked for is what info finds, and a type that stays keeps every byte.
types() {
    expect 0 info "$1" --verify --json
    json "o['types'] == $2"
}
expect 0 convert "$model" "$folder/q.mf" --type q8 --ffn q4 --json
json 'o["out"].endswith("/q.mf") and [r["role"] for r in o["roles"]] == ["ffn", "attention", "embedding"]'
json '[r["after"] for r in o["roles"]] == [["q4"], ["q8"], ["q8"]] and 0.05 < o["roles"][0]["error"] < 0.1'
json 'all(r["bytes_after"] < r["bytes_before"] and r["rounded"] == r["params"] for r in o["roles"])'
json 'o["file_bytes_after"] < o["file_bytes_before"]'
types "$folder/q.mf" '{"ffn": ["q4"], "attention": ["q8"], "embedding": ["q8"]}'
expect 0 info "$folder/q.mf"
says "ffn q4, attention q8, embedding q8" out
expect 0 convert "$folder/q.mf" "$folder/f.mf" --type f32 --storage raw --shells single
says "^ffn .* q4 .* f32 .* exact" out
says "Quantized weights were widened" out
types "$folder/f.mf" '{"ffn": ["f32"], "attention": ["f32"], "embedding": ["f32"]}'
json 'o["shells"] == 1'
expect 0 convert "$folder/q.mf" "$folder/same.mf"
cmp -s "$folder/q.mf" "$folder/same.mf" || fail "a conversion to nothing else changed the file"
expect 0 eval "$folder/q.mf" --text "$folder/text.txt" --json --threads 1
json 'all(v["loss"] > 0 for v in o["views"])'
python3 -c 'import numpy, xxhash, zstandard' 2>/dev/null &&
    { python3 "$(dirname "$0")/../tools/read_mf.py" "$folder/q.mf" >"$folder/out" 2>&1 ||
        fail "the second reader refuses what convert wrote: $(cat "$folder/out")"; }

# convert: a file that is there stays, unless --force; it may be the input.
cp "$folder/q.mf" "$folder/old.mf"
expect 1 convert "$folder/q.mf" "$folder/old.mf" --type f16
says "old.mf: the file exists; --force"
cmp -s "$folder/q.mf" "$folder/old.mf" || fail "convert replaced a file"
expect 0 convert "$folder/old.mf" "$folder/old.mf" --type f16 --force
types "$folder/old.mf" '{"ffn": ["f16"], "attention": ["f16"], "embedding": ["f16"]}'
expect 1 convert "$folder/q.mf" "$folder" --force
says "not a regular file"
expect 1 convert "$folder/q.mf" "$folder/missing/x.mf"
says "missing/x.mf"
expect 1 convert "$folder/q.mf" "$folder/x.mf" --output q8
says "its output matrix is the embedding"
expect 1 convert "$folder/cut.mf" "$folder/x.mf"
says "ends before shell 2"
expect 1 convert "$folder/damaged.mf" "$folder/x.mf"
says "damaged"
expect 0 convert "$folder/$odd.mf" "$folder/x.mf" --json
json 'o["in"].endswith("a\ufffdb.mf")'
rm "$folder/x.mf"

# convert: a signal leaves no file.
mkdir "$folder/signal"
"$matformer" convert "$(dirname "$0")/../models/tales.mf" "$folder/signal/x.mf" --type q4 >"$folder/out" 2>"$folder/err" &
writer=$!
tries=0
while [ -z "$(ls "$folder/signal")" ] && [ $tries -lt 500 ]; do
    tries=$((tries + 1))
    sleep 0.02
done
kill -TERM "$writer"
wait "$writer"
[ $? -eq 143 ] || fail "a conversion that SIGTERM ended did not say so"
says "x.mf was not written"
[ -z "$(ls "$folder/signal")" ] || fail "convert left $(ls "$folder/signal")"

# train: an interrupted run that goes on writes the file of one that was not interrupted.
if [ "$train" = yes ]; then
    shape="--layers 2 --d-model 64 --heads 2 --head-group 2 --d-ff 128 --vocab 300 --batch 4 --sequence 32 --steps 12 --threads 1
        --evaluate-every 4 --evaluate-tokens 0 --type f32 --warmup 2 --lr 3e-3"
    head -c 6000 "$story" >"$folder/train.txt"
    tail -c 2000 "$story" >"$folder/valid.txt"
    cp "$folder/train.txt" "$folder/copy.txt"
    expect 2 train --data "$folder/train.txt"
    expect 1 train --data "$folder/missing" --out "$folder/a.mf"
    says "missing"
    # What cannot be written, or would be written over another file of the run, is refused before the first step.
    refused() {
        sentence=$1
        shift
        expect 1 train --data "$folder/train.txt" --steps 1 "$@"
        says "$sentence"
    }
    ln "$folder/valid.txt" "$folder/link.txt"
    refused "its folder: No such file" --out "$folder/missing/a.mf"
    refused "not a regular file" --out "$folder"
    refused "it is the file of --out" --out "$folder/x.mf" --checkpoint "$folder/x.mf"
    refused "it is the file of --checkpoint" --out "$folder/x.mf" --checkpoint "$folder/x" --log "$folder/x"
    refused "over a text of --data" --out "$folder/copy.txt" --data "$folder/copy.txt"
    refused "over a text of --valid" --out "$folder/link.txt" --valid "$folder/valid.txt"
    refused "in both --data and --valid" --out "$folder/x.mf" --valid "$folder/train.txt"
    refused "65536 sequences of 65536 tokens is too large" --out "$folder/x.mf" --batch 65536 --sequence 65536
    mv "$folder/copy.txt" "$folder/$odd.txt"
    expect 0 train --data "$folder/$odd.txt" --out "$folder/$odd.mf" --steps 1 --layers 1 --d-model 32 --heads 1 \
        --head-group 1 --d-ff 32 -g A:1 --vocab 300 --batch 1 --sequence 32 --threads 1 --json
    json 'o["out"].endswith("a\ufffdb.mf")'
    [ -e "$folder/x.mf" ] && fail "a refused training wrote a model"
    # shellcheck disable=SC2086
    expect 0 train --data "$folder/train.txt" --valid "$folder/valid.txt" --out "$folder/a.mf" $shape --json \
        --log "$folder/log.jsonl"
    json 'o["stopped"] == "steps" and o["step"] == 12 and set(o["held_out"]) == {"S", "M", "L", "XL"}'
    cp "$folder/out" "$folder/trained"
    python3 -c 'import json, sys; [json.loads(l) for l in open(sys.argv[1])]' "$folder/log.jsonl" || fail "the log"
    expect 0 info "$folder/a.mf" --verify
    says "training.held_out_loss.XL" out
    # shellcheck disable=SC2086
    expect 0 train --data "$folder/train.txt" --valid "$folder/valid.txt" --out "$folder/b.mf" $shape --json \
        --checkpoint "$folder/b.ck" --minutes 0.0001
    json 'o["stopped"] == "minutes" and o["step"] < 12'
    # shellcheck disable=SC2086
    expect 0 train --data "$folder/train.txt" --valid "$folder/valid.txt" --out "$folder/b.mf" $shape --json \
        --checkpoint "$folder/b.ck"
    json 'o["step"] == 12'
    for file in a b; do
        expect 0 eval "$folder/$file.mf" --text "$folder/valid.txt" --json --threads 1
        python3 -c 'import json, sys
print([v["loss"] for v in json.load(open(sys.argv[1]))["views"]])' "$folder/out" >"$folder/$file.losses"
    done
    # The held-out losses are those that eval finds in the file.
    python3 -c 'import json, sys
trained = json.load(open(sys.argv[1]))["held_out"]
found = {v["size"]: v["loss"] for v in json.load(open(sys.argv[2]))["views"]}
sys.exit(any(abs(trained[s] - found[s]) > 1e-5 for s in trained))' "$folder/trained" "$folder/out" ||
        fail "eval and train do not agree: $(cat "$folder/trained" "$folder/out")"
    cmp -s "$folder/a.losses" "$folder/b.losses" || fail "a resumed run made another model"

    # The best loss so far is what --out states of it, and the file beside the checkpoint holds but a time.
    again() {
        # shellcheck disable=SC2086
        expect "$1" train --data "$folder/train.txt" --valid "$folder/valid.txt" --out "$folder/b.mf" $shape --json \
            --checkpoint "$folder/b.ck"
    }
    cp "$folder/b.mf" "$folder/kept.mf"
    for time in '' '{'; do
        rm -f "$folder/b.ck.json"
        [ -z "$time" ] || echo "$time" >"$folder/b.ck.json"
        again 0
        says "b.ck.json holds no time"
        json "o['best_step'] == 12 and all(abs(o['held_out'][s] - l) < 1e-8 for s, l in
            json.load(open('$folder/trained'))['held_out'].items())"
        cmp -s "$folder/b.mf" "$folder/kept.mf" || fail "the best model was replaced"
    done
    again 0
    [ -s "$folder/err" ] && fail "a good time was not read"
    rm "$folder/b.mf"
    again 0
    json "o['best_step'] == 0 and not o['held_out']"
    echo damaged >"$folder/b.mf"
    again 1
    says "move the file away"

    # Signals: a run that two of them stopped and that goes on writes, to the byte, the file of one that was left
    # alone. The names are the same, since the command line is in the file.
    mkdir "$folder/whole" "$folder/parts"
    begin() { # begin FOLDER ARGUMENT...
        place=$folder/$1
        shift
        # Word splitting is wanted; exec, so that the signal reaches the program.
        # shellcheck disable=SC2086
        exec "$matformer" train --data "$folder/train.txt" --valid "$folder/valid.txt" --out "$place/m.mf" \
            --checkpoint "$place/m.ck" --every 5 --layers 2 --d-model 64 --heads 2 --head-group 2 --d-ff 128 \
            --vocab 300 --batch 4 --sequence 32 --steps 600 --evaluate-every 150 --threads 1 \
            "$@" >"$place/out" 2>"$place/err" </dev/null
    }
    # wait_newer FILE THAN: until FILE is there and newer, or half a minute.
    wait_newer() {
        tries=0
        while ! [ "$1" -nt "$2" ] && [ $tries -lt 1500 ]; do
            tries=$((tries + 1))
            sleep 0.02
        done
    }
    (begin whole) || fail "a training failed: $(cat "$folder/whole/err")"
    for signal in TERM:143 INT:130; do
        touch "$folder/mark"
        (begin parts) &
        trainer=$!
        wait_newer "$folder/parts/m.ck" "$folder/mark"
        [ $signal = TERM:143 ] && (begin parts) && fail "two trainings used one checkpoint"
        [ $signal = TERM:143 ] && says "another training" parts/err
        kill -"${signal%:*}" $trainer
        wait $trainer
        got=$?
        [ $got -eq "${signal#*:}" ] || fail "SIG${signal%:*} ended a training with status $got"
        [ -s "$folder/parts/m.ck" ] || fail "no checkpoint after a signal"
        [ $signal = INT:130 ] || cp "$folder/parts/m.ck" "$folder/early.ck"
    done
    (begin parts) || fail "a training did not go on: $(cat "$folder/parts/err")"
    says "resumed from" parts/out
    cmp "$folder/whole/m.mf" "$folder/parts/m.mf" || fail "a run that signals stopped made another model"

    # As after a crash, --out holds a later model than an early checkpoint's, which is better than those that the next
    # steps make: it stays. A model of another run does not count.
    for found in whole/m.mf a.mf; do
        cp "$folder/early.ck" "$folder/parts/m.ck"
        cp "$folder/$found" "$folder/parts/m.mf"
        rm "$folder/parts/m.ck.json"
        (begin parts --minutes 0.001) || fail "a training did not go on: $(cat "$folder/parts/err")"
        says "the time is up" parts/out
        cmp -s "$folder/$found" "$folder/parts/m.mf"
        [ $? -eq "$([ $found = a.mf ] && echo 1 || echo 0)" ] || fail "--out held $found, and a model of few steps came"
    done

    # A reader that goes away ends the training, with a checkpoint.
    {
        # shellcheck disable=SC2086
        "$matformer" train --data "$folder/train.txt" --out "$folder/c.mf" --checkpoint "$folder/c.ck" $shape \
            --steps 100000 2>"$folder/err"
        echo $? >"$folder/status"
    } | head -n 1 >"$folder/out"
    [ "$(cat "$folder/status")" -eq 1 ] || fail "a training went on without a reader"
    says "standard output: "
    [ -s "$folder/c.ck" ] || fail "no checkpoint after the reader went away"
fi

# A file in parts: every size from those that are there, and the name of the one that is not.
mkdir "$folder/split"
expect 0 export "$model" "$folder/split/m.mf" --shells --json
json 'len(o["files"]) == 3 and o["files"][-1]["path"].endswith("/m.mf")'
expect 0 info "$folder/split/m.mf" --json
json '[s["resident"] for s in o["residency"]] == [True] * 3 and o["shells_resident"] == 3'
expect 0 run "$model" --size L --prompt Once -n 5
cp "$folder/out" "$folder/whole_text"
expect 0 run "$folder/split/m.mf" --size L --prompt Once -n 5
cmp -s "$folder/out" "$folder/whole_text" || fail "a model in parts writes another text"
expect 1 info "$folder/split/m.shell2.mfpart"
says "a part of a model"
# A part that is short, or damaged within, counts as missing, and is named: --verify fails.
cp "$folder/split/m.shell2.mfpart" "$folder/part"
for damage in short flipped; do
    if [ $damage = short ]; then
        head -c 5000 "$folder/part" > "$folder/split/m.shell2.mfpart"
    else
        { head -c -4 "$folder/part" && printf 'none'; } > "$folder/split/m.shell2.mfpart"
    fi
    expect 0 run "$folder/split/m.mf" --size M --prompt Once -n 5
    says "^matformer: warning: .*m.shell2.mfpart"
    expect 0 info "$folder/split/m.mf"
    says " absent$" out
    expect 1 info "$folder/split/m.mf" --verify
done
rm "$folder/split/m.shell2.mfpart"
expect 1 run "$folder/split/m.mf" --size L --prompt Once -n 5
says "m.shell2.mfpart"
expect 0 run "$folder/split/m.mf" --size M --prompt Once -n 5
expect 0 info "$folder/split/m.mf"
says " absent$" out
expect 1 export "$folder/split/m.mf" "$folder/split/n.mf" --shells
says "neither in the file nor in a part"
expect 0 export "$model" "$folder/split/m.mf" --split-max 1GiB
expect 0 run "$folder/split/m.mf" --size L --prompt Once -n 5
expect 1 export "$model" "$folder/split/n.mf" --split-max 100KiB
says "allow more"
expect 2 export "$model" "$folder/split/n.mf" --split-max 3bananas
expect 2 export "$model" "$folder/split/n.mf" --shells --size S

# Checkpoints of others: opened, converted, cut and exported; chats; prompts as tokens.
here=$(dirname "$0")
expect 0 run "$model" --prompt-tokens 65,66,67 -n 4 --temperature 0 --json
json 'o["prompt_tokens"] == 3 and o["generated_tokens"] == 4'
for ids in x -1 65,,66 99999999999; do
    expect 1 run "$model" --prompt-tokens="$ids" -n 4
    says "is no token of 0 to"
done
expect 2 run "$model" --prompt-tokens 65 --prompt A
expect 2 run "$model" --system S -p A
expect 1 run "$model" --chat -p A
says "does not say how it sees turns"
python3 "$here/make_checkpoint.py" "$here/golden/tokenizers/llama3.json" "$folder/llama" || fail "no checkpoint was made"
expect 0 info "$folder/llama" --json
json 'o["family"] == "llama" and o["tokenizer"] and o["shape"]["d_ff"] == 64'
expect 0 run "$folder/llama" --chat --system "Be brief." -p "Hello" -n 8 --json
json 'o["prompt_tokens"] > 10'
printf 'Hello\n/size 0.5\nAnd then?\n/nothing\n' | "$matformer" run "$folder/llama" -i -n 4 --quiet >"$folder/out" 2>"$folder/err" ||
    fail "a conversation ended badly: $(head -c 300 "$folder/err")"
says "is no command"
{ printf 'P6 32 32 255\n'; head -c 3072 /dev/zero; } >"$folder/black.ppm"
expect 0 run "$here/golden/checkpoints/vit_classifier_f32" --image "$folder/black.ppm" --json
expect 1 run "$here/golden/checkpoints/vit_classifier_f32" -p A
says "takes images"
expect 1 run "$folder/llama" --image "$folder/black.ppm"
says "takes text"
# A plan for an encoder, from images.
expect 0 convert "$here/golden/checkpoints/vit_classifier_f32" "$folder/vit.mf"
expect 0 plan "$folder/vit.mf" --image "$folder/black.ppm" -n 6 --rounds 1 --threads 1 --json
json 'o["stored"] and o["calibration"].startswith("1 image ") and len(o["plan"]["entries"]) > 1'
expect 0 run "$folder/vit.mf" --image "$folder/black.ppm" -s "params<=6e4" --json
expect 1 plan "$model" --image "$folder/black.ppm"
says "takes no images"
expect 2 plan "$folder/vit.mf" --image "$folder/black.ppm" --text "$story"
expect 0 convert "$folder/llama" "$folder/llama.mf" --json
expect 0 run "$folder/llama" -p "Once" -n 12 --temperature 0 --json
cp "$folder/out" "$folder/direct"
expect 0 run "$folder/llama.mf" -p "Once" -n 12 --temperature 0 --json
[ "$(python3 -c 'import json, sys; print([json.load(open(f))["tokens"] for f in sys.argv[1:]])' "$folder/out" "$folder/out")" = \
    "$(python3 -c 'import json, sys; print([json.load(open(f))["tokens"] for f in sys.argv[1:]])' "$folder/direct" "$folder/direct")" ] ||
    fail "a checkpoint writes another text than its .mf file"
expect 0 export "$folder/llama.mf" "$folder/half" --size 0.5 --json
json 'o["size"] == "0.5"'
expect 0 info "$folder/half" --json
json 'o["shape"]["d_ff"] == 32'
expect 1 export "$folder/llama.mf" "$folder/half"
says "exists"
expect 0 export "$folder/llama.mf" "$folder/half.gguf" --format gguf --size 0.5
expect 0 info "$folder/half.gguf" --json
json 'o["shape"]["d_ff"] == 32'
expect 0 convert "$folder/llama.mf" "$folder/half.mf" --size 0.5
expect 0 info "$folder/half.mf" --json
json 'o["shape"]["d_ff"] == 32'
expect 1 info "$folder/nothing-there"
mkdir "$folder/empty"
expect 1 info "$folder/empty"
says "config.json"

# plan
cp "$model" "$folder/planned.mf"
expect 1 run "$folder/planned.mf" -s "params<=1e9" -p A -n 1
says "matformer plan FILE"
plan="plan $folder/planned.mf --text $story --tokens 128 --context 32 -n 24 --rounds 1 --threads 1"
expect 1 $plan --time-limit 1e-9
expect 0 $plan --held-out "$here/test_cli.sh" --compare --no-store --resume "$folder/record" --out "$folder/plan.json" --svg "$folder/plan.svg"
says "^planner .* 24 " out
says "Not stored" out
[ "$(wc -l <"$folder/record")" -eq 25 ] || fail "24 evaluations are not 24 lines and a first one"
python3 -c 'import json, sys, xml.dom.minidom as x; x.parse(sys.argv[2]); sys.exit(len(json.load(open(sys.argv[1]))["compared"]) != 3)' \
    "$folder/plan.json" "$folder/plan.svg" || fail "the plan's JSON or its picture is none"
expect 0 $plan --resume "$folder/record" --json
json 'o["stored"] and o["plan"]["evaluations"] == 24 and o["plan"]["entries"][-1]["size"] == "L"'
[ "$(wc -l <"$folder/record")" -eq 25 ] || fail "evaluations that a record has were made again"
expect 1 $plan --resume "$folder/record" --context 16
says "another model, text or plan"
expect 0 run "$folder/planned.mf" -s "params<=1e9" -p A -n 1 --json
expect 1 run "$folder/planned.mf" -s "params<=10" -p A -n 1
says "the least are"
expect 0 plan "$folder/planned.mf" --measure --rounds 1 --threads 1 --json
json 'o["plan"]["entries"][0]["decode_ms"] > 0'
expect 0 info "$folder/planned.mf"
says "^plan .* configurations for budgets" out
expect 0 info "$folder/planned.mf" --json
json 'o["plan"]["entries"] > 1 and o["plan"]["threads"] == 1 and o["plan"]["timed_here"]'
expect 0 info "$model" --json
json 'o["plan"] is None'
expect 0 plan "$folder/planned.mf" --check-budgets 3 --rounds 1 --threads 1 --json
json 'o["budgets"] == 3 and len(o["rows"]) == 3'
expect 0 convert "$folder/planned.mf" "$folder/moved.mf" --storage zstd
expect 0 run "$folder/moved.mf" -s "ms<=1e9" -p A -n 1
expect 0 convert "$folder/planned.mf" "$folder/moved.mf" --type q8 --force
expect 1 run "$folder/moved.mf" -s "params<=1e9" -p A -n 1
expect 0 plan "$folder/planned.mf" --self-text --tokens 32 --context 16 -n 6 --rounds 1 --threads 1 --json
json '"drawn" in o["calibration"] and o["plan"]["evaluations"] == 6'
# Nothing that was read is written over, and what cannot be written is known before anything is measured.
cp "$story" "$folder/text.txt"
cp "$folder/planned.mf" "$folder/as-it-was.mf"
refused_output() { # what it says, and the options
    sentence=$1
    shift
    expect 1 plan "$folder/planned.mf" --text "$folder/text.txt" -n 8 "$@"
    says "$sentence"
}
for option in --out --svg --resume; do
    refused_output "over the model" $option "$folder/planned.mf"
    refused_output "over a text" $option "$folder/text.txt"
done
refused_output "it is the file of --out" --out "$folder/a" --svg "$folder/a"
refused_output "it is the file of --svg" --svg "$folder/a" --resume "$folder/a"
refused_output "its folder" --svg "$folder/none/a.svg"
refused_output "not a regular file" --out "$folder"
cmp "$story" "$folder/text.txt" && cmp "$folder/planned.mf" "$folder/as-it-was.mf" || fail "plan wrote over what it read"
expect 2 plan "$folder/planned.mf"
says "\-\-text"
expect 1 plan "$folder/llama" --text "$story" -n 8
says "nothing to plan"

[ $failed -eq 0 ] && echo "ok"
exit $failed
