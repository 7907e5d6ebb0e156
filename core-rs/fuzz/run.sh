#!/usr/bin/env bash
# run.sh SECONDS TARGET...: libFuzzer on each target for so long. Works with a stable compiler: coverage comes from code
# generation flags. (With a nightly one, `cargo fuzz run TARGET` adds AddressSanitizer.) What it finds new goes to
# found/<target>/, an input that fails to artifacts/<target>/.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift

host=$(rustc -vV | sed -n 's/^host: //p')
coverage=(level=4 inline-8bit-counters pc-table trace-compares)
export RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
for option in "${coverage[@]}"; do
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-$option"
done
cargo build --release --locked --target "$host"

for target in "$@"; do
    mkdir -p "found/$target" "artifacts/$target"
    echo "== $target, $seconds s"
    # Later folders are only read: the kept corpus stays as it is.
    "${CARGO_TARGET_DIR:-target}/$host/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="artifacts/$target/" "found/$target" "corpus/$target"
done
