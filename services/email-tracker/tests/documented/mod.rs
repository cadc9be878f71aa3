//! Pages of the repository that are what the code says.

use std::path::Path;

/// Compares with a file of the repository; with UPDATE=1 in the environment, writes it anew. `program` is the name of the
/// test program, for who is told to do that.
pub(crate) fn assert_is_documented(text: &str, file: &str, program: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    #[expect(clippy::disallowed_methods, reason = "a switch of this test, no setting")]
    if std::env::var("UPDATE").is_ok() {
        std::fs::write(&path, text).unwrap();
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        documented == text,
        "{file} differs from what the program says; UPDATE=1 cargo test -p email-tracker --test {program} writes it \
         anew:\n{text}"
    );
}
