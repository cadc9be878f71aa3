//! `settings`: the whole table, from the descriptions by which the services read their settings.

use service_kit::settings::{COMMON, table};

const INTRODUCTION: &str = "\
# Settings

Environment variables, read once at start; the empty one counts as unset. A secret may be given as `NAME_FILE` instead, the \
path of a file that holds it; both is a mistake. Whoever finds mistakes names all of them, a line each, and does not start.

This page is what `email-tracker settings` prints; a test compares them.

";

/// All settings of all services.
pub(crate) fn settings() -> String {
    let mut page = INTRODUCTION.to_owned();
    let tables = [
        table("Every service", &[&COMMON]),
        table("Pixel", &[&pixel::SETTINGS]),
        table("Recorder", &[&recorder::SETTINGS]),
        table("Dashboard", &[&dashboard::SETTINGS]),
        table("`email-tracker up`", &[&crate::up::SETTINGS]),
        table("`email-tracker migrate`", &[&crate::migrate::SETTINGS]),
        table("`email-tracker doctor`", &[&crate::doctor::SETTINGS]),
        table(
            "`email-tracker backup` and `restore`",
            &[&crate::backup::SETTINGS],
        ),
        table("`email-tracker import`", &[&crate::import::SETTINGS]),
        table("`email-tracker reclassify`", &[&crate::reclassify::SETTINGS]),
        table("`email-tracker webhooks`", &[&crate::webhooks::SETTINGS]),
    ];
    page.push_str(&tables.join("\n"));
    page
}

/// Prints them.
#[expect(clippy::print_stdout, reason = "this is what was asked for")]
pub(crate) fn print() {
    print!("{}", settings());
}
