#!/bin/bash
# Usage: scripts/check_pages.sh BUILD
# The manual pages and completions of BUILD: mandoc finds no fault in a page, bash completes as it should, and zsh and fish
# read theirs. What is not installed is left out and said. The last line says how many checks passed.
set -u
pages=$(realpath "$1")/tools/pages
passed=0
failed=0

check() # check NAME COMMAND...
{
    local name=$1
    shift
    if "$@" > /dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
    fi
}

has() # has COMMAND
{
    command -v "$1" > /dev/null || { echo "$1 is not installed: what it would check is left out"; return 1; }
}

lint() # lint PAGE: pages have no date on purpose
{
    local found
    found=$(mandoc -Tlint -Wwarning "$1" 2>&1 | grep -v 'missing date, using ""')
    [ -z "$found" ] || { echo "$found" >&2; return 1; }
}

complete_words() # complete_words WORD...: what is offered for the last one, in a line
{
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    COMPREPLY=()
    _matformer
    echo "${COMPREPLY[*]}"
}

offers() # offers "WORDS, all of them, as they are offered" WORD...
{
    local wanted=$1 got
    shift
    got=$(complete_words "$@")
    [ "$got" = "$wanted" ] || { echo "$*: \"$got\", not \"$wanted\"" >&2; return 1; }
}

if has mandoc; then
    for page in "$pages"/*.[13]; do check "mandoc $page" lint "$page"; done
fi

compopt() { :; } # of the running completion, which there is none of here
# shellcheck source=/dev/null
check 'the completion loads' . "$pages/matformer"
. "$pages/matformer"
check 'complete -F' grep -q -- '-F _matformer matformer' <(complete -p matformer)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
touch "$folder/small.mf" "$folder/with space.mf"
check 'a command' offers 'demo' matformer d
check 'two commands' offers 'eval export' matformer e
check 'an option of the program' offers '--version' matformer --v
check 'an option' offers '--tensors' matformer info --t
check 'several options' offers '--draft --draft-tokens' matformer run model.mf --dr
check 'an option of another command' offers '' matformer info --draft
check 'a choice' offers 'exact' matformer run --arithmetic e
check 'all choices' offers 'hf gguf' matformer export --format ''
check 'a size' offers 'XL' matformer run -s X
check 'a number' offers '' matformer run --tokens ''
check 'a file' offers "$folder/small.mf" matformer info "$folder/s"
check 'a file with a space' offers "$folder/with space.mf" matformer info "$folder/w"
check 'a file of an option' offers "$folder/small.mf" matformer demo --model "$folder/s"
check 'what is measured' offers 'kernels' matformer bench k
check 'a file after what is measured' offers "$folder/small.mf" matformer bench decode "$folder/s"
check 'an unknown command' offers '' matformer planted --

! has zsh || check 'zsh' zsh -n "$pages/_matformer"
! has fish || check 'fish' fish --no-config -n "$pages/matformer.fish"
# fish completes without a terminal.
! has fish || check 'fish completes' grep -q '^--tensors' <(
    fish --no-config -c "source '$pages/matformer.fish'; complete -C 'matformer info --te'")

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
