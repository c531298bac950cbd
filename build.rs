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
    // Where the linker is LLVM's: rustc's default for glibc on this machine, if nobody chose another,
    // and for musl the one that .cargo/config.toml names, which rustc calls itself.
    let chosen = env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    let through = match env::var("CARGO_CFG_TARGET_ENV").as_deref() {
        Ok("gnu") if is("CARGO_CFG_TARGET_ARCH", "x86_64") && !chosen => Some("-Wl,"),
        Ok("musl") if !chosen => Some(""),
        _ => None,
    };
    if let Some(through) = through.filter(|_| is("PROFILE", "release")) {
        // Beneath the package's directory, where cargo starts rustc: a target directory that has
        // been moved with it, or kept from another clone, stays right.
        println!("cargo::rustc-link-arg-bins={through}--symbol-ordering-file={LIST}");
        println!("cargo::rustc-link-arg-bins={through}--no-warn-symbol-ordering");
    }
}
