//! The host's functions, made safe. Natively `mock::host` stands here.

use alloc::string::String;
use alloc::vec::Vec;

/// Room for answers that are usually short: one host call instead of two.
const ROOM: usize = 512;

#[link(wasm_import_module = "obelisk")]
unsafe extern "C" {
    #[link_name = "attribute"]
    fn host_attribute(name: *const u8, len: usize, buffer: *mut u8, room: usize) -> i32;
    #[link_name = "block_time"]
    safe fn host_block_time() -> u64;
    #[link_name = "call"]
    fn host_call(request: *const u8, len: usize, buffer: *mut u8, room: usize) -> i32;
    #[link_name = "caller"]
    fn host_caller(buffer: *mut u8, room: usize) -> i32;
    #[link_name = "calling_contract"]
    fn host_calling_contract(buffer: *mut u8, room: usize) -> i32;
    #[link_name = "delete"]
    fn host_delete(key: *const u8, len: usize);
    #[link_name = "emit"]
    fn host_emit(name: *const u8, name_len: usize, payload: *const u8, len: usize);
    #[link_name = "get"]
    fn host_get(key: *const u8, len: usize, buffer: *mut u8, room: usize) -> i32;
    #[link_name = "height"]
    safe fn host_height() -> u64;
    #[link_name = "input"]
    fn host_input(buffer: *mut u8, room: usize) -> i32;
    #[link_name = "log"]
    fn host_log(text: *const u8, len: usize);
    #[link_name = "put"]
    fn host_put(key: *const u8, key_len: usize, value: *const u8, value_len: usize);
    #[link_name = "refuse"]
    fn host_refuse(text: *const u8, len: usize);
    #[link_name = "result"]
    fn host_result(buffer: *mut u8);
    #[link_name = "return_value"]
    fn host_return_value(value: *const u8, len: usize);
    #[link_name = "scan"]
    fn host_scan(
        start: *const u8,
        start_len: usize,
        end: *const u8,
        end_len: usize,
        limit: usize,
        buffer: *mut u8,
        room: usize,
    ) -> i32;
    #[link_name = "tx"]
    fn host_tx(buffer: *mut u8);
}

/// Takes bytes of unknown length: into a buffer, or, where they did not fit, by `result`.
fn take(ask: impl FnOnce(*mut u8, usize) -> i32) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(ROOM);
    let len = usize::try_from(ask(bytes.as_mut_ptr(), ROOM)).ok()?;
    if len > ROOM {
        bytes.reserve_exact(len);
        // SAFETY: the host writes the `len` bytes it told, into room for as many.
        unsafe { host_result(bytes.as_mut_ptr()) };
    }
    // SAFETY: the host wrote `len` bytes, here or above.
    unsafe { bytes.set_len(len) };
    Some(bytes)
}

pub fn input() -> Vec<u8> {
    // SAFETY: here and below, pointers and lengths are those of live slices or of `take`'s buffer.
    take(|buffer, room| unsafe { host_input(buffer, room) }).unwrap_or_default()
}

pub fn caller() -> Vec<u8> {
    take(|buffer, room| unsafe { host_caller(buffer, room) }).unwrap_or_default()
}

pub fn attribute(name: &str) -> Option<String> {
    let value =
        take(|buffer, room| unsafe { host_attribute(name.as_ptr(), name.len(), buffer, room) })?;
    String::from_utf8(value).ok()
}

pub fn calling_contract() -> Option<String> {
    let name = take(|buffer, room| unsafe { host_calling_contract(buffer, room) })?;
    String::from_utf8(name).ok()
}

pub fn tx() -> [u8; 32] {
    let mut id = [0; 32];
    unsafe { host_tx(id.as_mut_ptr()) };
    id
}

pub fn height() -> u64 {
    host_height()
}

pub fn block_time() -> u64 {
    host_block_time()
}

pub fn get(key: &[u8]) -> Option<Vec<u8>> {
    take(|buffer, room| unsafe { host_get(key.as_ptr(), key.len(), buffer, room) })
}

pub fn put(key: &[u8], value: &[u8]) {
    unsafe { host_put(key.as_ptr(), key.len(), value.as_ptr(), value.len()) };
}

pub fn delete(key: &[u8]) {
    unsafe { host_delete(key.as_ptr(), key.len()) };
}

pub fn scan(start: &[u8], end: &[u8], limit: usize) -> Vec<u8> {
    let found = take(|buffer, room| unsafe {
        host_scan(start.as_ptr(), start.len(), end.as_ptr(), end.len(), limit, buffer, room)
    });
    found.unwrap_or_default()
}

pub fn emit(name: &str, payload: &[u8]) {
    unsafe { host_emit(name.as_ptr(), name.len(), payload.as_ptr(), payload.len()) };
}

pub fn call(request: &[u8]) -> Vec<u8> {
    take(|buffer, room| unsafe { host_call(request.as_ptr(), request.len(), buffer, room) })
        .unwrap_or_default()
}

pub fn return_value(value: &[u8]) {
    unsafe { host_return_value(value.as_ptr(), value.len()) };
}

pub fn refuse(text: &str) {
    unsafe { host_refuse(text.as_ptr(), text.len()) };
}

pub fn log(text: &str) {
    unsafe { host_log(text.as_ptr(), text.len()) };
}
