//! `limner serve`.

use crate::Result;

/// Arguments of `limner serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[expect(clippy::needless_pass_by_value, reason = "skeleton")]
pub(super) fn run(_args: Args) -> Result<()> {
    Ok(())
}
