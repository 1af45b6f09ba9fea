#!/bin/sh
# Usage: scripts/check_abi.sh WORK [BUILD]
# The ABI (docs/abi.md): the header against the baselines of test/abi, and the library of BUILD (build) against the header;
# that changes which break programs are found; and that a library whose structs have grown, which is built in WORK, runs programs of the
# first header and of today's. The last line says how many checks passed.
set -eu
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH
work=$1
build=${2:-build}
mkdir -p "$work"
work=$(cd "$work" && pwd)
passed=0
failed=0
layers='base container model import submodel plan session api'
sanitize='-fsanitize=address,undefined -fno-sanitize-recover=all'

verdict() # verdict STATUS NAME
{
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED  $2"
        cat "$work/log"
    fi
}

holds() # holds NAME COMMAND...
{
    name=$1
    shift
    if "$@" > "$work/log" 2>&1; then verdict 0 "$name"; else verdict 1 "$name"; fi
}

compatible() # compatible OLD.abi HEADER MAP
{
    sh scripts/record_abi.sh "$2" "$3" > "$work/new.abi" &&
        abidiff --suppressions test/abi/allow.ini --no-added-syms "$1" "$work/new.abi" &&
        python3 test/abi/compare_layout.py "$1" "$work/new.abi"
}

# mutation found|allowed NAME SED_SCRIPT [MAP_SED_SCRIPT]: a header that was changed in one place is refused, or taken.
mutation()
{
    sed -E "$3" include/matformer.h > "$work/matformer.h"
    sed -E "${4:-}" lib/matformer.map > "$work/matformer.map"
    status=0
    if cmp -s include/matformer.h "$work/matformer.h"; then
        echo "the change does not change the header" > "$work/log"
        status=1
    elif ! sh scripts/record_abi.sh "$work/matformer.h" "$work/matformer.map" > /dev/null 2> "$work/log"; then
        status=1
    elif compatible "$work/today.abi" "$work/matformer.h" "$work/matformer.map" > "$work/log" 2>&1; then
        [ "$1" = allowed ] || status=1
    else
        [ "$1" = found ] || status=1
    fi
    verdict "$status" "$1: $2"
}

# A library of the grown header: the sources above kernels/, which knows neither, and the kernels of BUILD.
grow()
{
    rm -rf "$work/grown"
    mkdir -p "$work/grown/include" "$work/grown/lib"
    sh test/abi/grow_header.sh include/matformer.h > "$work/grown/include/matformer.h"
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 -g1 -O0 -fPIC -pthread -shared $sanitize -fvisibility=hidden -ffp-contract=off -D_FILE_OFFSET_BITS=64 \
        -I"$work/grown/include" -Ikernels $(printf -- '-Ilib/%s ' $layers) -o "$work/grown/lib/libmatformer.so.0" \
        -Wl,-soname,libmatformer.so.0 -Wl,--version-script=lib/matformer.map \
        $(ls $(printf 'lib/%s/*.c ' $layers) | grep -v '_windows\.c$\|_no_checkpoint\.c$') -Wl,--whole-archive "$build/kernels/libmfk_kernels.a" -Wl,--no-whole-archive \
        $(pkg-config --cflags --libs libzstd libxxhash jansson) -lm &&
        ln -s libmatformer.so.0 "$work/grown/lib/libmatformer.so"
}

serves() # serves HEADERS WHAT: a program of HEADERS runs with the grown library, whose ASan sees every access
{
    # shellcheck disable=SC2086
    ${CC:-cc} -std=c11 -O1 $sanitize -I"$1" -o "$work/program" \
        test/abi/program.c -L"$work/grown/lib" -lmatformer -Wl,-rpath,"$work/grown/lib" &&
        "$work/program" models/tales.mf "$2"
}

sh scripts/record_abi.sh > "$work/today.abi"
for baseline in test/abi/matformer-*.abi; do
    holds "the header keeps $baseline" compatible "$baseline" "$PWD/include/matformer.h" "$PWD/lib/matformer.map"
done
# Without the exceptions: with them abidiff 2.2 ends in a fault where a type is opaque on one side.
holds 'the library has what the header says' abidiff --headers-dir2 include "$work/today.abi" "$build/lib/libmatformer.so"

mutation found 'a function is removed' '/^MF_API uint32_t mf_version\(/d' '/ mf_version;/d'
mutation found 'a parameter is added' 's/(mf_session_rewind\(mf_session \*session, uint32_t position)\)/\1, int how)/'
mutation found 'a result changes' 's/^MF_API void mf_session_cancel/MF_API int mf_session_cancel/'
mutation found 'fields change places' '/^typedef struct mf_session_options /,/^\}/{s/uint32_t max_positions;/mf_cache_type CACHE;/;s/mf_cache_type cache_type;/uint32_t max_positions;/;s/CACHE/cache_type/}'
mutation found 'a field is inserted' 's/^(    const mf_submodel \*submodel;)$/    uint64_t inserted;\n\1/'
mutation found 'a field is inserted in padding' 's/^(    uint32_t max_positions; .* 0: the model)/    uint8_t inserted;\n\1/'
mutation found 'a field becomes wider' 's/uint32_t n_top; /uint64_t n_top; /'
mutation found 'a struct without struct_size grows' 's/^\} mf_token_logprob;/    int grown;\n} mf_token_logprob;/'
mutation found 'an enumerator has another value' 's/MF_CACHE_BF16 = 1/MF_CACHE_BF16 = 3/'
mutation found 'a status has another value' 's/X\(E_BUSY, -9,/X(E_BUSY, -29,/'
mutation found 'an enumerator is removed' 's/, MF_CACHE_Q8 = 2//'
mutation allowed 'a function is added' 's/^(MF_API uint32_t mf_version.*)$/\1\nMF_API uint32_t mf_later(void);/' 's/^( *mf_version;)/\1 mf_later;/'
mutation allowed 'a struct grows at its end' 's/^\} mf_session_options;/    uint64_t grown;\n} mf_session_options;/'
mutation allowed 'an enumerator is added' 's/MF_CACHE_Q8 = 2/MF_CACHE_Q8 = 2, MF_CACHE_Q4 = 3/'

if grow > "$work/log" 2>&1; then
    passed=$((passed + 1))
    holds 'a grown library serves a program of the first header' serves test/abi/old newer
    holds 'a grown library serves a program of this header' serves include newer
    holds 'a grown library serves a program of its own header' serves "$work/grown/include" same
else
    verdict 1 'a library whose structs have grown builds'
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
