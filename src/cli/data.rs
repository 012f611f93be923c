//! `limner data`.

use crate::Result;

/// Arguments of `limner data`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[expect(clippy::needless_pass_by_value, reason = "skeleton")]
pub(super) fn run(_args: Args) -> Result<()> {
    Ok(())
}
