//! Embedded migrations: a new file in `migrations/` rebuilds the crate.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
