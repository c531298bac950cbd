# shellcheck shell=bash
# lib.sh: what the scripts share. Sourced, from the top of the tree, by bash with `set -euo pipefail`.

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# as_root CMD…: directly, or with sudo. Fails where neither is possible.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else command sudo "$@"; fi
}

# need PACKAGE PROBE WHY: notes a Debian package as missing unless PROBE succeeds.
missing=()
need() {
    if ! eval "$2" >/dev/null 2>&1; then
        say "missing: $1 ($3)"
        missing+=("$1")
    fi
}

# have PROGRAM: also those that only root's PATH finds.
have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }

# Installs what `need` noted.
install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    have apt-get || die "install these with your package manager (the names are Debian's): ${missing[*]}"
    [ "$(id -u)" = 0 ] || have sudo || die "ask an administrator to run: apt-get install ${missing[*]}"
    say "installing: ${missing[*]}"
    local apt=(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0
        -o DPkg::Lock::Timeout=300)
    # A fresh machine has no package lists, an old one stale ones: fetch them when they fail us.
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
        "${apt[@]}" update >/dev/null
        "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
    }
    missing=()
}

# What building dhow takes besides Rust.
need_compiler() {
    need gcc 'have cc' "a C compiler and linker: the zstd and ring crates are partly C"
    need libc6-dev 'cc -print-file-name=libc.a | grep -q /' "the static C library that goes into the binary"
}

# Finds cargo, new enough, or says how to get it.
need_rust() {
    local wanted have how
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    how="Rust $wanted or newer is needed (distributions' own are often older). To get it:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
then open a new shell, or: . \"\$HOME/.cargo/env\""
    command -v cargo >/dev/null || die "no cargo here. $how"
    have=$(rustc --version | cut -d' ' -f2)
    printf '%s\n' "$wanted" "${have%%-*}" | sort --check=quiet --version-sort || die "this is Rust $have. $how"
}

# The machine Rust builds for here, and the same one with musl for its C library.
host_target() { rustc -vV | sed -n 's/^host: //p'; }
musl_target() { host_target | sed 's/-gnu$/-musl/'; }
has_musl() { [ -d "$(rustc --print target-libdir --target "$(musl_target)")" ]; }

# What a release needs besides: dhow starts faster with musl (.cargo/config.toml says why). A Rust
# that did not come by rustup may lack its half, and then glibc is what there is.
need_musl() {
    has_musl ||
        { have rustup && rustup target add "$(musl_target)" >&2; } || {
        say "note: this Rust has no standard library for $(musl_target): building for $(host_target)"
        return 0
    }
    need musl-tools 'have musl-gcc' "compiles the C parts of a release for musl"
}

# What a release is built for.
release_target() {
    if has_musl && have musl-gcc; then musl_target; else host_target; fi
}

# The directory cargo builds PROFILE into: .cargo/config.toml builds for the host by its name.
built_in() {
    local target
    if [ "$1" = release ]; then target=$(release_target); else target=$(host_target); fi
    echo "${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-$PWD/target}}/$target/$1"
}
