#!/usr/bin/env bash
# Builds the fuzzer and runs it; see README.md.
#
#   tools/fuzz/run.sh [SECONDS [KERNELS [MODEL.svit...]]]
#
# KERNELS is portable, avx2, avx512, neon or mcu; default: what the engine chooses here.
# FUZZ_DIRECTORY holds what was found so far; default: ~/.cache/primesvt-deploy/fuzz.
# FUZZ_FLAGS are flags of the compiler, such as -m32.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
engine=$root/primesvt_deploy/edge/native
seconds=${1:-600}
kernels=${2:-}
shift $(($# < 2 ? $# : 2))
directory=${FUZZ_DIRECTORY:-$HOME/.cache/primesvt-deploy/fuzz}
longest=16384 # bytes of a file

mkdir -p "$directory"/{corpus,seeds,found}
"$root/.venv/bin/python" "$here/made_models.py" "$directory/seeds"
for model in "$@"; do
    cp "$model" "$directory/seeds/$(basename "$model").$(sha256sum "$model" | head -c 8)"
done

# What maps files and starts threads is not fuzzed.
mapfile -t sources < <(ls "$here"/*.c "$engine"/svit*.c | grep -v -e svit_file.c -e svit_threads.c)
# shellcheck disable=SC2086 # flags are words
clang -std=c99 -O1 -g -ffp-contract=off -Wall -Wextra -Wconversion ${FUZZ_FLAGS:-} \
    -fsanitize=fuzzer,address,undefined \
    -I"$engine" -o "$directory/fuzz_open" "${sources[@]}"

# Compiled to end at the first mistake, kernels take clang minutes.
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS:-}
[ -z "$kernels" ] || export SVIT_FUZZ_KERNELS=$kernels
exec nice -n 19 "$directory/fuzz_open" -max_len=$longest -max_total_time="$seconds" -timeout=30 \
    -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$directory/found/" \
    "$directory/corpus" "$directory/seeds"
