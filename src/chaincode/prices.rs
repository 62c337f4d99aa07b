//! The price list: what each service of the host costs a contract, in units of fuel.
//!
//! One unit is about one WebAssembly instruction. Prices are part of the protocol: every validator
//! charges the same or the receipts differ, so a change is a change of the protocol version.
//! `docs/contracts.md` explains them. Sums saturate, so no length can wrap a price.

/// Any call from a contract to the host.
pub const HOST_CALL: u64 = 100;
/// Each byte that moves between a contract and the host, either way.
pub const BYTE: u64 = 1;
/// Reading one key, found or not.
pub const GET: u64 = 2_000;
/// Writing or deleting one key: undo, write set, later the state tree.
pub const PUT: u64 = 4_000;
/// Each byte of a key and value written.
pub const PUT_BYTE: u64 = 2;
/// Starting a range scan.
pub const SCAN: u64 = 4_000;
/// Each entry a scan returns.
pub const SCAN_ENTRY: u64 = 400;
/// One event.
pub const EVENT: u64 = 1_000;
/// Each byte of an event's name and payload: receipts keep them for ever.
pub const EVENT_BYTE: u64 = 4;
/// Entering a contract: a fresh instance.
pub const ENTER: u64 = 5_000;
/// Each page (64 KiB) of linear memory that a module demands at its start.
pub const ENTER_PAGE: u64 = 200;
/// Each byte of a package at deployment: validation and translation to machine code.
pub const PACKAGE_BYTE: u64 = 16;

/// Price of `count` units at `price` each.
pub fn of(count: usize, price: u64) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(price)
}
