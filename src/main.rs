//! The binary: parse, call, exit code. Everything else is `obelisk::cli`.

use std::process::ExitCode;

/// Also under RocksDB: a transfer costs about 100 allocations on each validator, which were a tenth
/// of its CPU time with the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    obelisk::cli::main(std::env::args_os().collect())
}
