//! The fault suite.

use clap::Args;

/// How much of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {}

pub(crate) async fn run(_options: Options) -> anyhow::Result<()> {
    Ok(())
}
