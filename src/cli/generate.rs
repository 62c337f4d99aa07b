//! `obelisk generate` (hidden): man pages and shell completions from the command line itself, for
//! packages.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::cli;
use crate::cli::failure::Exit;
use crate::cli::failure::Failure;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Folder to write into: man/ and completions/
    #[arg(value_name = "DIR")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (man, completions) = (arguments.out.join("man"), arguments.out.join("completions"));
    write(&man, &completions).map_err(|error| {
        let cause = format!("cannot write to {}: {error}", arguments.out.display());
        Failure::new(Exit::Usage, cause, "name a folder that can be written")
    })
}

fn write(man: &PathBuf, completions: &PathBuf) -> std::io::Result<()> {
    fs::create_dir_all(man)?;
    fs::create_dir_all(completions)?;
    clap_mangen::generate_to(cli::tree(), man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::tree(), "obelisk", completions)?;
    }
    Ok(())
}
