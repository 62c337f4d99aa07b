//! The binary: parse, call, exit code. Everything else is `obelisk::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    obelisk::cli::main(std::env::args_os().collect())
}
