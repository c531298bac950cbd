//! Tells the linker which functions a start and an `exec` run through, so that they lie side by
//! side: the kernel maps an executable in pieces of 64 KiB as they are touched, each piece costs
//! two microseconds, and dhow's ten megabytes were touched in a hundred places.

use std::env;

/// Made by `scripts/order`. Names that are not there any more are passed over.
const LIST: &str = "scripts/order.list";

fn main() {
    println!("cargo::rerun-if-changed={LIST}");
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|have| have == value);
    // Where rustc's own linker, which is LLVM's, is the default; another one has other flags.
    let own_linker = is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && !env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if own_linker && is("PROFILE", "release") {
        let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,--symbol-ordering-file={root}/{LIST}");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
    }
}
