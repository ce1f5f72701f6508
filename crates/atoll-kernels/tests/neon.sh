#!/usr/bin/env bash
# The kernels on 64-bit ARM: this crate's lints and tests, compiled for it and run by qemu, with and
# without the instruction `sdot`. The digests in tests/equal_bits were taken on x86-64, so that
# equal digests here prove both architectures equal.
#
# Installs what it needs if it can; exits with 77 and says why if it cannot.
# ATOLL_CASES: random cases per test, 2000 unless told.
set -euo pipefail
cd "$(dirname "$0")/../../.."
target=aarch64-unknown-linux-gnu
export ATOLL_CASES=${ATOLL_CASES:-2000}

cannot() {
  printf 'the NEON kernels are not tested: %s\n' "$1" >&2
  exit 77
}
have() { command -v "$1" >/dev/null 2>&1; }

[ "$(uname -s)" = Linux ] || cannot "qemu runs programs of Linux only"
if ! have qemu-aarch64 || ! have aarch64-linux-gnu-gcc; then
  [ "$(id -u)" = 0 ] && have apt-get || cannot "no qemu-aarch64 or no aarch64-linux-gnu-gcc"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross >/dev/null ||
    cannot "apt-get could not install qemu-user and gcc-aarch64-linux-gnu"
fi
if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
  have rustup || cannot "no rustup to add the target $target with"
  timeout 300 rustup target add "$target" >&2 || cannot "rustup could not add $target"
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
run() {
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $1 -L /usr/aarch64-linux-gnu" \
    cargo test --release --locked --target "$target" -p atoll-kernels "${@:2}"
}

cargo clippy --release --locked --target "$target" -p atoll-kernels --all-targets -- -D warnings
ATOLL_ISAS="generic neon neon-dot" run max
# A processor of 2015, such as a Raspberry Pi 4 has.
ATOLL_ISAS="generic neon" ATOLL_CASES=200 run cortex-a72 --test equal_bits
