//! State in memory and a whole transaction's rules around it: for tests of contracts and tools.
//!
//! `MemoryChain::transact` does what a validator's execution does for one transaction, without
//! signatures and blocks: resolve, run, keep the writes and events on success, drop them on a
//! fault. It keeps the limits that a contract can feel (keys, values, writes, events, depth of
//! calls). Not used by a node.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Caller;
use crate::chaincode::Fault;
use crate::chaincode::Outcome;
use crate::chaincode::Stub;
use crate::chaincode::contracts::Contracts;
use crate::types::digest::Digest;
use crate::types::ids::Height;
use crate::types::ids::TxId;
use crate::types::limits;
use crate::types::receipt::Event;
use crate::types::receipt::Status;

/// A namespace and a key.
type At = (String, Vec<u8>);

/// A chain of one validator in memory.
pub struct MemoryChain {
    /// Contracts it runs.
    pub contracts: Arc<Contracts>,
    /// Committed state.
    pub state: BTreeMap<At, Bytes>,
    /// Events of all transactions, with the contract that emitted each.
    pub events: Vec<(String, Event)>,
    /// Height of the next transaction; each transaction is a block of its own.
    pub height: Height,
    /// Time of the next block, milliseconds since 1970.
    pub block_time_ms: u64,
    /// Fuel of one transaction.
    pub fuel_max: u64,
    /// Fuel that the last transaction used.
    pub fuel_used: u64,
}

impl MemoryChain {
    /// An empty chain.
    pub fn new(contracts: Arc<Contracts>) -> Self {
        let fuel_max = contracts.parameters().fuel_max;
        Self {
            contracts,
            state: BTreeMap::new(),
            events: Vec::new(),
            height: Height(1),
            block_time_ms: 1_700_000_000_000,
            fuel_max,
            fuel_used: 0,
        }
    }

    /// Runs one transaction and commits its writes where it succeeds.
    pub fn transact(
        &mut self,
        caller: &Caller,
        chaincode: &str,
        function: &str,
        args: &[&[u8]],
    ) -> Result<Bytes, Fault> {
        let result = self.run(caller, chaincode, function, args);
        self.height = Height(self.height.0 + 1);
        self.block_time_ms += 1;
        let (outcome, writes, events) = result.inspect_err(|_| self.fuel_used = self.fuel_max)?;
        self.fuel_used = self.fuel_max - outcome.fuel_left;
        self.events.extend(events);
        for (at, value) in writes {
            match value {
                Some(value) => self.state.insert(at, value),
                None => self.state.remove(&at),
            };
        }
        Ok(outcome.value)
    }

    /// Runs one transaction and drops what it writes.
    pub fn query(
        &self,
        caller: &Caller,
        chaincode: &str,
        function: &str,
        args: &[&[u8]],
    ) -> Result<Bytes, Fault> {
        self.run(caller, chaincode, function, args).map(|(outcome, ..)| outcome.value)
    }

    /// A committed value.
    pub fn get(&self, namespace: &str, key: &[u8]) -> Option<&Bytes> {
        self.state.get(&(namespace.to_owned(), key.to_vec()))
    }

    fn run(
        &self,
        caller: &Caller,
        chaincode: &str,
        function: &str,
        args: &[&[u8]],
    ) -> Result<(Outcome, Writes, Events), Fault> {
        let mut stub = MemoryStub {
            contracts: &self.contracts,
            base: &self.state,
            writes: Writes::new(),
            events: Vec::new(),
            frames: Vec::new(),
        };
        let call = Call {
            chaincode: chaincode.to_owned(),
            function: function.to_owned(),
            args: args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect(),
            caller: Arc::new(caller.clone()),
            calling_chaincode: None,
            tx: TxId(Digest::of(&[b"memory chain", &self.height.0.to_be_bytes()])),
            height: self.height,
            block_time_ms: self.block_time_ms,
        };
        let outcome = stub.enter(call, self.fuel_max)?;
        Ok((outcome, stub.writes, stub.events))
    }
}

type Writes = BTreeMap<At, Option<Bytes>>;
/// Events with the contract that emitted each.
type Events = Vec<(String, Event)>;

/// One running transaction over a map.
struct MemoryStub<'a> {
    contracts: &'a Contracts,
    base: &'a BTreeMap<At, Bytes>,
    writes: Writes,
    events: Vec<(String, Event)>,
    frames: Vec<Call>,
}

impl MemoryStub<'_> {
    fn enter(&mut self, call: Call, fuel: u64) -> Result<Outcome, Fault> {
        if self.frames.len() >= limits::CALL_DEPTH_MAX {
            return Err(limit("calls from contract to contract", limits::CALL_DEPTH_MAX));
        }
        let contracts = self.contracts;
        let resolved = contracts.resolve(&call.chaincode, &mut |namespace, key| {
            Ok(self.value(&(namespace.to_owned(), key.to_vec())))
        })?;
        self.frames.push(call.clone());
        let outcome = contracts.invoke(&resolved, &call, self, fuel);
        self.frames.pop();
        outcome
    }

    fn frame(&self) -> &Call {
        self.frames.last().expect("a stub is used within a call")
    }

    fn at(&self, key: &[u8]) -> Result<At, Fault> {
        if key.is_empty() || key.len() > limits::STATE_KEY_BYTES_MAX {
            return Err(limit("bytes of a key (1 at least)", limits::STATE_KEY_BYTES_MAX));
        }
        Ok((self.frame().chaincode.clone(), key.to_vec()))
    }

    fn value(&self, at: &At) -> Option<Bytes> {
        match self.writes.get(at) {
            Some(written) => written.clone(),
            None => self.base.get(at).cloned(),
        }
    }

    fn write(&mut self, key: &[u8], value: Option<Bytes>) -> Result<(), Fault> {
        let at = self.at(key)?;
        if value.as_ref().is_some_and(|value| value.len() > limits::STATE_VALUE_BYTES_MAX) {
            return Err(limit("bytes of a value", limits::STATE_VALUE_BYTES_MAX));
        }
        self.writes.insert(at, value);
        if self.writes.len() > limits::TX_WRITES_MAX {
            return Err(limit("keys written by a transaction", limits::TX_WRITES_MAX));
        }
        Ok(())
    }
}

impl Stub for MemoryStub<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let at = self.at(key)?;
        Ok(self.value(&at))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.write(key, Some(Bytes::copy_from_slice(value)))
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.write(key, None)
    }

    fn scan(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let namespace = self.frame().chaincode.clone();
        let from = Bound::Included((namespace.clone(), start.to_vec()));
        let to = match end {
            // The zero byte gives the least namespace behind this one.
            [] => Bound::Excluded((format!("{namespace}\0"), Vec::new())),
            end if end <= start => return Ok(Vec::new()),
            end => Bound::Excluded((namespace, end.to_vec())),
        };
        let range = (from, to);
        let mut merged: BTreeMap<&At, Option<&Bytes>> =
            self.base.range(range.clone()).map(|(at, value)| (at, Some(value))).collect();
        merged.extend(self.writes.range(range).map(|(at, value)| (at, value.as_ref())));
        let present = merged.into_iter().filter_map(|(at, value)| Some((at, value?)));
        let entry = |(at, value): (&At, &Bytes)| (Bytes::copy_from_slice(&at.1), value.clone());
        Ok(present.take(limit.min(limits::SCAN_ENTRIES_MAX)).map(entry).collect())
    }

    fn emit(&mut self, name: &str, payload: &[u8]) -> Result<(), Fault> {
        if name.len() + payload.len() > limits::EVENT_BYTES_MAX {
            return Err(limit("bytes of an event", limits::EVENT_BYTES_MAX));
        }
        if self.events.len() >= limits::TX_EVENTS_MAX {
            return Err(limit("events of a transaction", limits::TX_EVENTS_MAX));
        }
        let event = Event { name: name.to_owned(), payload: Bytes::copy_from_slice(payload) };
        self.events.push((self.frame().chaincode.clone(), event));
        Ok(())
    }

    fn call(
        &mut self,
        chaincode: &str,
        function: &str,
        args: Vec<Bytes>,
        fuel: u64,
    ) -> Result<(Bytes, u64), Fault> {
        let outer = self.frame().clone();
        let call = Call {
            chaincode: chaincode.to_owned(),
            function: function.to_owned(),
            args,
            calling_chaincode: Some(outer.chaincode.clone()),
            ..outer
        };
        self.enter(call, fuel).map(|outcome| (outcome.value, outcome.fuel_left))
    }
}

fn limit(what: &str, limit: usize) -> Fault {
    Fault::new(Status::LimitExceeded, format!("{what}: the limit is {limit}"))
}
