//! The generated code in git is what `proto/` says now. `UPDATE=1 cargo test -p recorder-api --test generated` renews it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

use prost::Message;

#[test]
fn generated_code_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = here.join("../../proto");
    let descriptors =
        protox::compile([proto.join("email_tracker/recorder/v1/recorder.proto")], [&proto]).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    fs::write(fresh.path().join("descriptors.bin"), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();

    let kept = here.join("src/generated");
    for file in ["email_tracker.recorder.v1.rs", "descriptors.bin"] {
        let (fresh, kept) = (fresh.path().join(file), kept.join(file));
        if std::env::vars().any(|(name, _)| name == "UPDATE") {
            fs::copy(&fresh, &kept).unwrap();
        }
        assert!(
            fs::read(&fresh).unwrap() == fs::read(&kept).unwrap_or_default(),
            "{file} is out of date: UPDATE=1 cargo test -p recorder-api --test generated"
        );
    }
}
