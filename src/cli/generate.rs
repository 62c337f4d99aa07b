//! `obelisk generate` (hidden): man pages and shell completions from the command line itself, for
//! packages.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

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

fn write(man: &Path, completions: &Path) -> io::Result<()> {
    fs::create_dir_all(man)?;
    fs::create_dir_all(completions)?;
    let mut tree = cli::tree().disable_help_subcommand(true);
    tree.build();
    page(&tree, man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::tree(), "obelisk", completions)?;
    }
    Ok(())
}

/// The page of a command, after those of its subcommands.
fn page(command: &Command, folder: &Path) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        page(inner, folder)?;
    }
    // Without a date of its own the title line would show the next word in that place; a real one
    // would make two builds of one source differ.
    let title = Man::new(command.clone()).date(" ").source(SOURCE).manual("Obelisk");
    title.generate_to(folder).map(drop)
}

const SOURCE: &str = concat!("obelisk ", env!("CARGO_PKG_VERSION"));
