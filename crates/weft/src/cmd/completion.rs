//! `weft completion`.

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::Failed;

/// Writes the completion script of a shell.
pub fn completion(shell: clap_complete::Shell) -> Result<(), Failed> {
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut std::io::stdout());
    Ok(())
}
