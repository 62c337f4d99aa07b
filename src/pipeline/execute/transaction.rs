//! One transaction in execution: what a contract may see and do, with every read and write
//! recorded.
//!
//! Invariants: a failed transaction leaves no write and no event; a fault in a called contract
//! fails the whole transaction, also when the calling contract goes on; a storage error is never a
//! contract's fault, it stops the node.

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Fault;
use crate::chaincode::Stub;
use crate::chaincode::contracts::Contracts;
use crate::ledger::LedgerError;
use crate::ledger::WorldState;
use crate::ledger::read_write_set::ReadSet;
use crate::ledger::read_write_set::StateKey;
use crate::ledger::read_write_set::WriteSet;
use crate::pipeline::execute::overlay::Overlay;
use crate::types::limits;
use crate::types::receipt::Event;
use crate::types::receipt::Status;

/// Recorded effects of one transaction while it runs.
pub struct Transaction<'a> {
    ledger: &'a dyn WorldState,
    overlay: &'a Overlay,
    contracts: &'a Contracts,
    writes: WriteSet,
    write_bytes: usize,
    reads: ReadSet,
    events: Vec<Event>,
    depth: usize,
    read_only: bool,
    nested_fault: Option<Fault>,
    storage: Option<LedgerError>,
}

/// What a finished transaction left.
pub struct Finished {
    /// Return value and fuel left, or why it failed.
    pub outcome: Result<(Bytes, u64), Fault>,
    /// Final writes; empty after a fault.
    pub writes: WriteSet,
    /// What was read.
    pub reads: ReadSet,
    /// Events; empty after a fault.
    pub events: Vec<Event>,
}

impl<'a> Transaction<'a> {
    /// A transaction over the state of `overlay` above `ledger`: the ledger, or a view of it for
    /// queries. `read_only` refuses writes.
    pub fn new(
        ledger: &'a dyn WorldState,
        overlay: &'a Overlay,
        contracts: &'a Contracts,
        read_only: bool,
    ) -> Self {
        Self {
            ledger,
            overlay,
            contracts,
            writes: WriteSet::default(),
            write_bytes: 0,
            reads: ReadSet::default(),
            events: Vec::new(),
            depth: 0,
            read_only,
            nested_fault: None,
            storage: None,
        }
    }

    /// Runs the call to its end. An error is the node's own: execution cannot go on.
    pub fn run(mut self, call: &Call, fuel: u64) -> Result<Finished, LedgerError> {
        let outcome = self.invoke(call, fuel);
        if let Some(error) = self.storage {
            return Err(error);
        }
        let outcome = match self.nested_fault {
            Some(fault) => Err(fault),
            None => outcome,
        };
        let reads = self.reads;
        Ok(match outcome {
            Ok(value) => {
                Finished { outcome: Ok(value), writes: self.writes, reads, events: self.events }
            }
            Err(fault) => {
                let (writes, events) = (WriteSet::default(), Vec::new());
                Finished { outcome: Err(fault), writes, reads, events }
            }
        })
    }

    fn invoke(&mut self, call: &Call, fuel: u64) -> Result<(Bytes, u64), Fault> {
        let contracts = self.contracts;
        let resolved =
            contracts.resolve(&call.chaincode, &mut |namespace, key| self.read(namespace, key))?;
        let mut frame = Frame { transaction: self, call };
        let outcome = contracts.invoke(&resolved, call, &mut frame, fuel)?;
        if outcome.value.len() > limits::RETURN_BYTES_MAX {
            return Err(over("return value", outcome.value.len(), limits::RETURN_BYTES_MAX));
        }
        Ok((outcome.value, outcome.fuel_left))
    }

    fn read(&mut self, namespace: &str, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let at = state_key(namespace, key)?;
        if let Some(own) = self.writes.0.get(&at) {
            return Ok(own.clone());
        }
        let value = self.overlay.value(self.ledger, &at);
        let value = value.map_err(|error| self.fail(error))?;
        self.reads.keys.insert(at, value.clone());
        Ok(value)
    }

    fn write(&mut self, namespace: &str, key: &[u8], value: Option<Bytes>) -> Result<(), Fault> {
        if self.read_only {
            return Err(Fault::new(Status::Refused, "a query cannot write; submit a transaction"));
        }
        let at = state_key(namespace, key)?;
        let size = value.as_ref().map_or(0, Bytes::len);
        if size > limits::STATE_VALUE_BYTES_MAX {
            return Err(over("state value", size, limits::STATE_VALUE_BYTES_MAX));
        }
        self.write_bytes += key.len() + size;
        self.writes.0.insert(at, value);
        if self.writes.0.len() > limits::TX_WRITES_MAX {
            return Err(over("keys written", self.writes.0.len(), limits::TX_WRITES_MAX));
        }
        if self.write_bytes > limits::TX_WRITE_BYTES_MAX {
            return Err(over("bytes written", self.write_bytes, limits::TX_WRITE_BYTES_MAX));
        }
        Ok(())
    }

    fn fail(&mut self, error: LedgerError) -> Fault {
        let fault = Fault::new(Status::Trap, "the node's storage failed");
        self.storage.get_or_insert(error);
        fault
    }
}

/// One contract's view of the transaction: its own namespace.
struct Frame<'t, 'a, 'c> {
    transaction: &'t mut Transaction<'a>,
    call: &'c Call,
}

impl Stub for Frame<'_, '_, '_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.transaction.read(&self.call.chaincode, key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let value = Some(Bytes::copy_from_slice(value));
        self.transaction.write(&self.call.chaincode, key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.transaction.write(&self.call.chaincode, key, None)
    }

    fn scan(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let tx = &mut *self.transaction;
        let from = state_key(&self.call.chaincode, start)?;
        let limit = limit.min(limits::SCAN_ENTRIES_MAX);
        let entries = tx.overlay.scan(tx.ledger, &tx.writes, &from, end, limit);
        let entries = entries.map_err(|error| tx.fail(error))?;
        let range = (from.namespace, from.key, Bytes::copy_from_slice(end), entries.len());
        tx.reads.ranges.push(range);
        Ok(entries)
    }

    fn emit(&mut self, name: &str, payload: &[u8]) -> Result<(), Fault> {
        let events = &mut self.transaction.events;
        if name.len() + payload.len() > limits::EVENT_BYTES_MAX {
            return Err(over("event", name.len() + payload.len(), limits::EVENT_BYTES_MAX));
        }
        if events.len() >= limits::TX_EVENTS_MAX {
            return Err(over("events", events.len() + 1, limits::TX_EVENTS_MAX));
        }
        events.push(Event { name: name.to_owned(), payload: Bytes::copy_from_slice(payload) });
        Ok(())
    }

    fn call(
        &mut self,
        chaincode: &str,
        function: &str,
        args: Vec<Bytes>,
        fuel: u64,
    ) -> Result<(Bytes, u64), Fault> {
        let tx = &mut *self.transaction;
        let call = Call {
            chaincode: chaincode.to_owned(),
            function: function.to_owned(),
            args,
            calling_chaincode: Some(self.call.chaincode.clone()),
            ..self.call.clone()
        };
        let result = match tx.depth < limits::CALL_DEPTH_MAX {
            false => Err(over("depth of calls", tx.depth + 1, limits::CALL_DEPTH_MAX)),
            true => {
                tx.depth += 1;
                let result = tx.invoke(&call, fuel);
                tx.depth -= 1;
                result
            }
        };
        if let Err(fault) = &result {
            tx.nested_fault.get_or_insert_with(|| fault.clone());
        }
        result
    }
}

fn state_key(namespace: &str, key: &[u8]) -> Result<StateKey, Fault> {
    if key.is_empty() && namespace.is_empty() {
        return Err(Fault::new(Status::Refused, "a state key needs a namespace"));
    }
    if key.len() > limits::STATE_KEY_BYTES_MAX {
        return Err(over("state key", key.len(), limits::STATE_KEY_BYTES_MAX));
    }
    Ok(StateKey { namespace: namespace.to_owned(), key: Bytes::copy_from_slice(key) })
}

fn over(what: &str, found: usize, limit: usize) -> Fault {
    Fault::new(Status::LimitExceeded, format!("{what}: {found} is above the limit of {limit}"))
}
