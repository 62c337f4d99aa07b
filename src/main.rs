//! The binary: parse, call, exit code. Everything else is `obelisk::cli`.

use std::process::ExitCode;

/// Also under RocksDB: with the C library's allocator, allocation took about a tenth more CPU time
/// per transfer (`bench/README.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    obelisk::cli::main(std::env::args_os().collect())
}
