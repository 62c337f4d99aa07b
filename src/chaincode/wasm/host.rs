//! The host functions: all that a WebAssembly contract can reach, imported from module "obelisk".
//!
//! Pointers and lengths are u32 offsets into the contract's memory; anything out of bounds traps.
//! Functions that give bytes take a buffer and its size and return the length: where it does not
//! fit, nothing is copied, and the same bytes wait for one call of `result`. -1 means absent. Texts
//! and records are encoded as in `types::codec` (big-endian). `docs/contracts.md` is the contract
//! writer's description of this file; `FUNCTIONS` is its table of types.

use bytes::Bytes;
use wasmtime::Caller;
use wasmtime::Engine;
use wasmtime::Linker;
use wasmtime::Memory;
use wasmtime::ResourceLimiter;

use crate::chaincode::Fault;
use crate::chaincode::builtin;
use crate::chaincode::prices;
use crate::chaincode::wasm::loan::Loan;
use crate::types::codec::Encode;
use crate::types::codec::Reader;
use crate::types::codec::Writer;
use crate::types::limits;
use crate::types::receipt::Status;

/// Entries that a scan reads at one time.
const SCAN_PAGE: usize = 64;

/// Name of the import module.
pub const MODULE: &str = "obelisk";

/// Every host function: name, parameters and results, `i` for i32 and `I` for i64.
pub const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("attribute", "iiii", "i"),
    ("block_time", "", "I"),
    ("call", "iiii", "i"),
    ("caller", "ii", "i"),
    ("calling_contract", "ii", "i"),
    ("delete", "ii", ""),
    ("emit", "iiii", ""),
    ("get", "iiii", "i"),
    ("height", "", "I"),
    ("input", "ii", "i"),
    ("log", "ii", ""),
    ("put", "iiii", ""),
    ("refuse", "ii", ""),
    ("result", "i", ""),
    ("return_value", "ii", ""),
    ("scan", "iiiiiii", "i"),
    ("tx", "i", ""),
];

/// State of one running instance.
pub struct HostState {
    /// The borrowed call and stub.
    pub loan: Loan,
    /// The contract's memory, known once it is instantiated.
    pub memory: Option<Memory>,
    /// What the contract returns.
    pub value: Vec<u8>,
    /// Bounds of memory and tables.
    pub growth: Growth,
    /// Bytes that did not fit the buffer they were asked with.
    pending: Option<Bytes>,
}

impl HostState {
    /// The state of a fresh instance.
    pub fn new(loan: Loan) -> Self {
        Self { loan, memory: None, value: Vec::new(), growth: Growth, pending: None }
    }
}

/// The same bounds on every machine, whatever allocates the memory.
pub struct Growth;

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(usize::MAX).min(limits::WASM_MEMORY_BYTES_MAX))
    }

    // Growth within the bounds fails only where the machine has no memory; the error is no trap
    // and stops the process.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(usize::MAX).min(limits::WASM_TABLE_ELEMENTS_MAX))
    }
}

type Host<'a> = Caller<'a, HostState>;
type Answer<T> = wasmtime::Result<T>;

/// All host functions, bound by name.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap(MODULE, "attribute", attribute)?
        .func_wrap(MODULE, "block_time", block_time)?
        .func_wrap(MODULE, "call", call)?
        .func_wrap(MODULE, "caller", caller)?
        .func_wrap(MODULE, "calling_contract", calling_contract)?
        .func_wrap(MODULE, "delete", delete)?
        .func_wrap(MODULE, "emit", emit)?
        .func_wrap(MODULE, "get", get)?
        .func_wrap(MODULE, "height", height)?
        .func_wrap(MODULE, "input", input)?
        .func_wrap(MODULE, "log", log)?
        .func_wrap(MODULE, "put", put)?
        .func_wrap(MODULE, "refuse", refuse)?
        .func_wrap(MODULE, "result", result)?
        .func_wrap(MODULE, "return_value", return_value)?
        .func_wrap(MODULE, "scan", scan)?
        .func_wrap(MODULE, "tx", tx)?;
    Ok(linker)
}

fn input(mut host: Host<'_>, buffer: u32, room: u32) -> Answer<i32> {
    charge(&mut host, prices::HOST_CALL)?;
    let call = host.data().loan.call();
    let size: usize = call.args.iter().map(|arg| arg.len() + 4).sum();
    let mut w = Writer::with_capacity(size + call.function.len() + 8);
    w.string(&call.function);
    w.count(call.args.len());
    for arg in &call.args {
        w.bytes(arg);
    }
    give(&mut host, Some(w.finish()), buffer, room)
}

fn result(mut host: Host<'_>, buffer: u32) -> Answer<()> {
    charge(&mut host, prices::HOST_CALL)?;
    let Some(bytes) = host.data_mut().pending.take() else {
        return Err(trap("result was called, but no bytes are waiting"));
    };
    copy(&mut host, &bytes, buffer)
}

fn caller(mut host: Host<'_>, buffer: u32, room: u32) -> Answer<i32> {
    charge(&mut host, prices::HOST_CALL)?;
    let caller = &host.data().loan.call().caller;
    let mut w = Writer::with_capacity(128);
    w.string(&caller.organisation);
    w.string(&caller.name);
    w.string(&caller.role);
    caller.certificate.encode(&mut w);
    give(&mut host, Some(w.finish()), buffer, room)
}

fn attribute(mut host: Host<'_>, name: u32, len: u32, buffer: u32, room: u32) -> Answer<i32> {
    charge(&mut host, prices::HOST_CALL)?;
    let (memory, state) = memory(&mut host)?;
    let name = range(memory, name, len)?;
    let attributes = &state.loan.call().caller.attributes;
    let found = attributes.iter().find(|(known, _)| known.as_bytes() == name);
    let value = found.map(|(_, value)| Bytes::copy_from_slice(value.as_bytes()));
    give(&mut host, value, buffer, room)
}

fn calling_contract(mut host: Host<'_>, buffer: u32, room: u32) -> Answer<i32> {
    charge(&mut host, prices::HOST_CALL)?;
    let name = host.data().loan.call().calling_chaincode.clone().map(Bytes::from);
    give(&mut host, name, buffer, room)
}

fn tx(mut host: Host<'_>, buffer: u32) -> Answer<()> {
    charge(&mut host, prices::HOST_CALL)?;
    let id = host.data().loan.call().tx;
    copy(&mut host, id.0.as_bytes(), buffer)
}

fn height(mut host: Host<'_>) -> Answer<u64> {
    charge(&mut host, prices::HOST_CALL)?;
    Ok(host.data().loan.call().height.0)
}

fn block_time(mut host: Host<'_>) -> Answer<u64> {
    charge(&mut host, prices::HOST_CALL)?;
    Ok(host.data().loan.call().block_time_ms)
}

fn get(mut host: Host<'_>, key: u32, len: u32, buffer: u32, room: u32) -> Answer<i32> {
    charge_for(&mut host, prices::GET, len, prices::BYTE)?;
    let (memory, state) = memory(&mut host)?;
    let value = state.loan.stub().get(range(memory, key, len)?)?;
    give(&mut host, value, buffer, room)
}

fn put(mut host: Host<'_>, key: u32, key_len: u32, value: u32, value_len: u32) -> Answer<()> {
    charge_for(&mut host, prices::PUT, key_len, prices::PUT_BYTE)?;
    charge_for(&mut host, 0, value_len, prices::PUT_BYTE)?;
    let (memory, state) = memory(&mut host)?;
    let (key, value) = (range(memory, key, key_len)?, range(memory, value, value_len)?);
    Ok(state.loan.stub().put(key, value)?)
}

fn delete(mut host: Host<'_>, key: u32, len: u32) -> Answer<()> {
    charge_for(&mut host, prices::PUT, len, prices::PUT_BYTE)?;
    let (memory, state) = memory(&mut host)?;
    Ok(state.loan.stub().delete(range(memory, key, len)?)?)
}

#[expect(clippy::too_many_arguments, reason = "two byte strings, a limit and a buffer")]
fn scan(
    mut host: Host<'_>,
    start: u32,
    start_len: u32,
    end: u32,
    end_len: u32,
    limit: u32,
    buffer: u32,
    room: u32,
) -> Answer<i32> {
    charge_for(&mut host, prices::SCAN, start_len, prices::BYTE)?;
    charge_for(&mut host, 0, end_len, prices::BYTE)?;
    let limit = (limit as usize).min(limits::SCAN_ENTRIES_MAX);
    let (memory, _) = memory(&mut host)?;
    let mut start = range(memory, start, start_len)?.to_vec();
    let end = range(memory, end, end_len)?.to_vec();
    let mut entries = Vec::new();
    let mut size = 0;
    // Page by page, each paid before the next is read: fuel bounds what is held at one time.
    while entries.len() < limit {
        let wanted = SCAN_PAGE.min(limit - entries.len());
        let page = host.data_mut().loan.stub().scan(&start, &end, wanted)?;
        let bytes: usize = page.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
        charge(&mut host, prices::of(page.len(), prices::SCAN_ENTRY))?;
        charge(&mut host, prices::of(bytes, prices::BYTE))?;
        size += bytes;
        if size > limits::WASM_MEMORY_BYTES_MAX {
            return Err(limit_exceeded("a scan gave more bytes than a contract's memory has"));
        }
        let is_last = page.len() < wanted;
        if let Some((key, _)) = page.last() {
            // The least key behind the last one.
            start = [key.as_ref(), &[0]].concat();
        }
        entries.extend(page);
        if is_last {
            break;
        }
    }
    let mut w = Writer::with_capacity(size + 4);
    w.count(entries.len());
    for (key, value) in &entries {
        w.bytes(key);
        w.bytes(value);
    }
    give_paid(&mut host, w.finish(), buffer, room)
}

fn emit(mut host: Host<'_>, name: u32, name_len: u32, bytes: u32, len: u32) -> Answer<()> {
    charge_for(&mut host, prices::EVENT, name_len, prices::EVENT_BYTE)?;
    charge_for(&mut host, 0, len, prices::EVENT_BYTE)?;
    let (memory, state) = memory(&mut host)?;
    let name = range(memory, name, name_len)?;
    let name = std::str::from_utf8(name).map_err(|_| trap("an event's name is not UTF-8"))?;
    Ok(state.loan.stub().emit(name, range(memory, bytes, len)?)?)
}

fn call(mut host: Host<'_>, request: u32, len: u32, buffer: u32, room: u32) -> Answer<i32> {
    charge_for(&mut host, prices::HOST_CALL, len, prices::BYTE)?;
    let fuel = host.get_fuel()?;
    let (memory, state) = memory(&mut host)?;
    let request = Bytes::copy_from_slice(range(memory, request, len)?);
    let mut r = Reader::new(&request);
    let parsed = || -> Result<_, crate::types::codec::DecodeError> {
        let chaincode = r.string("contract", limits::NAME_BYTES_MAX)?;
        let function = r.string("function", limits::NAME_BYTES_MAX)?;
        let count = r.count("arguments", limits::ARGS_MAX)?;
        let args = (0..count)
            .map(|_| r.bytes("argument", limits::TX_PAYLOAD_BYTES_MAX))
            .collect::<Result<Vec<_>, _>>()?;
        r.end("call")?;
        Ok((chaincode, function, args))
    }();
    let (chaincode, function, args) =
        parsed.map_err(|error| trap(&format!("a call to another contract: {error}")))?;
    let (value, left) = state.loan.stub().call(&chaincode, &function, args, fuel)?;
    host.set_fuel(left.min(fuel))?;
    give(&mut host, Some(value), buffer, room)
}

fn return_value(mut host: Host<'_>, bytes: u32, len: u32) -> Answer<()> {
    charge_for(&mut host, prices::HOST_CALL, len, prices::BYTE)?;
    let (memory, state) = memory(&mut host)?;
    let value = range(memory, bytes, len)?;
    if value.len() > limits::RETURN_BYTES_MAX {
        return Err(limit_exceeded("the return value is longer than 64 KiB"));
    }
    state.value = value.to_vec();
    Ok(())
}

fn refuse(mut host: Host<'_>, text: u32, len: u32) -> Answer<()> {
    charge_for(&mut host, prices::HOST_CALL, len, prices::BYTE)?;
    let (memory, _) = memory(&mut host)?;
    let text = String::from_utf8_lossy(range(memory, text, len)?);
    let end = text.floor_char_boundary(limits::ERROR_TEXT_BYTES_MAX);
    Err(builtin::refused(&text[..end]).into())
}

fn log(mut host: Host<'_>, text: u32, len: u32) -> Answer<()> {
    charge_for(&mut host, prices::HOST_CALL, len, prices::BYTE)?;
    let (memory, state) = memory(&mut host)?;
    let text = String::from_utf8_lossy(range(memory, text, len)?);
    tracing::debug!(contract = state.loan.call().chaincode, "{}", text.escape_debug());
    Ok(())
}

/// Hands bytes to the contract, for the price of each, whether they fit its buffer or not.
fn give(host: &mut Host<'_>, bytes: Option<Bytes>, buffer: u32, room: u32) -> Answer<i32> {
    let Some(bytes) = bytes else {
        host.data_mut().pending = None;
        return Ok(-1);
    };
    charge(host, prices::of(bytes.len(), prices::BYTE))?;
    give_paid(host, bytes, buffer, room)
}

/// Into the buffer where they fit, else to wait for `result`.
fn give_paid(host: &mut Host<'_>, bytes: Bytes, buffer: u32, room: u32) -> Answer<i32> {
    host.data_mut().pending = None;
    let len = i32::try_from(bytes.len())
        .map_err(|_| limit_exceeded("more bytes than a contract's memory has"))?;
    if bytes.len() <= room as usize {
        copy(host, &bytes, buffer)?;
    } else {
        host.data_mut().pending = Some(bytes);
    }
    Ok(len)
}

fn copy(host: &mut Host<'_>, bytes: &[u8], buffer: u32) -> Answer<()> {
    let (memory, _) = memory(host)?;
    let start = buffer as usize;
    let target = memory.get_mut(start..start.saturating_add(bytes.len()));
    target.ok_or_else(out_of_bounds)?.copy_from_slice(bytes);
    Ok(())
}

fn memory<'a>(host: &'a mut Host<'_>) -> Answer<(&'a mut [u8], &'a mut HostState)> {
    let memory = host.data().memory.ok_or_else(|| trap("a host call before the start"))?;
    Ok(memory.data_and_store_mut(host))
}

fn range(memory: &[u8], start: u32, len: u32) -> Answer<&[u8]> {
    let start = start as usize;
    memory.get(start..start.saturating_add(len as usize)).ok_or_else(out_of_bounds)
}

fn charge(host: &mut Host<'_>, price: u64) -> Answer<()> {
    let left = host.get_fuel()?.checked_sub(price).ok_or_else(builtin::out_of_fuel)?;
    host.set_fuel(left)
}

fn charge_for(host: &mut Host<'_>, price: u64, count: u32, each: u64) -> Answer<()> {
    charge(host, prices::of(count as usize, each).saturating_add(price))
}

fn out_of_bounds() -> wasmtime::Error {
    trap("the contract gave the host a pointer outside its memory")
}

fn trap(text: &str) -> wasmtime::Error {
    Fault::new(Status::Trap, text).into()
}

fn limit_exceeded(text: &str) -> wasmtime::Error {
    Fault::new(Status::LimitExceeded, text).into()
}
