//! How the program is linked: alone, without a C library and its start files, at a fixed address.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_PROGRAM").is_some() {
        for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
            println!("cargo:rustc-link-arg-bin=ringmesh-member={argument}");
        }
    }
}
