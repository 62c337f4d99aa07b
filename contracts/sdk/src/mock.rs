//! A chain in memory for the unit tests of contracts; one for each thread.
//!
//! `Mock` keeps the rules that a contract can feel: a refusal drops the writes and events of its
//! transaction, reads see own writes, scans are ordered. It does not count fuel; calls to other
//! contracts go to those that were added with `contract`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::Functions;
use crate::Refusal;
use crate::args::Args;
use crate::date::Date;
use crate::dispatch;

type State = BTreeMap<(String, Vec<u8>), Vec<u8>>;

#[derive(Clone, Default)]
struct World {
    state: State,
    events: Vec<(String, Vec<u8>)>,
    organisation: String,
    name: String,
    role: String,
    attributes: Vec<(String, String)>,
    time_ms: u64,
    height: u64,
    frames: Vec<String>,
    contracts: Vec<(String, Functions)>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

fn with<T>(change: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|world| change(&mut world.borrow_mut()))
}

/// A fresh chain for one contract.
pub struct Mock {
    name: &'static str,
}

impl Mock {
    /// A chain with one contract, `name`, called by nobody yet on 2024-01-01.
    pub fn new(name: &'static str, functions: Functions) -> Self {
        with(|world| {
            *world = World { height: 1, ..World::default() };
            world.contracts.push((name.to_owned(), functions));
        });
        let mock = Self { name };
        mock.on("2024-01-01");
        mock
    }

    /// Adds a contract that can be called by name.
    pub fn contract(&self, name: &str, functions: Functions) {
        with(|world| world.contracts.push((name.to_owned(), functions)));
    }

    /// Calls come from this client of an organisation, without attributes.
    pub fn caller(&self, organisation: &str, name: &str) -> &Self {
        self.role(organisation, name, "client")
    }

    /// Calls come from this person.
    pub fn role(&self, organisation: &str, name: &str, role: &str) -> &Self {
        with(|world| {
            world.organisation = organisation.to_owned();
            world.name = name.to_owned();
            world.role = role.to_owned();
            world.attributes.clear();
        });
        self
    }

    /// The caller's certificate has this attribute.
    pub fn attribute(&self, name: &str, value: &str) -> &Self {
        with(|world| world.attributes.push((name.to_owned(), value.to_owned())));
        self
    }

    /// Blocks have noon of this day as their time.
    pub fn on(&self, date: &str) -> &Self {
        let date = Date::parse(date).expect("a date, YYYY-MM-DD");
        with(|world| world.time_ms = (date.0 * 24 + 12) * 60 * 60 * 1000);
        self
    }

    /// Runs a transaction: the answer as text, or the refusal's words.
    pub fn call(&self, function: &str, args: &[&str]) -> Result<String, String> {
        self.transact(|functions, args| dispatch(functions, function, args), args)
    }

    /// Runs the contract's `init`.
    pub fn init(&self, init: Functions, args: &[&str]) -> Result<String, String> {
        self.transact(|_, args| dispatch(init, "init", args), args)
    }

    /// A stored value as text.
    pub fn value(&self, key: &str) -> Option<String> {
        let at = (self.name.to_owned(), key.as_bytes().to_vec());
        with(|world| world.state.get(&at).map(|v| String::from_utf8_lossy(v).into_owned()))
    }

    /// Names of all events so far.
    pub fn events(&self) -> Vec<String> {
        with(|world| world.events.iter().map(|(name, _)| name.clone()).collect())
    }

    fn transact(
        &self,
        run: impl FnOnce(Functions, &Args) -> crate::Answer,
        args: &[&str],
    ) -> Result<String, String> {
        let before = with(|world| world.clone());
        let functions = before.contracts[0].1;
        with(|world| {
            world.height += 1;
            world.frames = vec![self.name.to_owned()];
        });
        let args = Args::new(args.iter().map(|arg| arg.as_bytes().to_vec()).collect());
        match run(functions, &args) {
            Ok(value) => Ok(String::from_utf8(value).expect("sample contracts answer in text")),
            Err(Refusal(text)) => {
                with(|world| {
                    world.state = before.state;
                    world.events = before.events;
                });
                Err(text.into_owned())
            }
        }
    }
}

/// The host's functions over the mock.
pub(crate) mod host {
    use super::World;
    use super::with;
    use crate::args::Args;
    use crate::dispatch;
    use crate::wire;

    fn at(world: &World, key: &[u8]) -> (String, Vec<u8>) {
        assert!(!key.is_empty(), "a key has at least one byte");
        (world.frames.last().cloned().unwrap_or_default(), key.to_vec())
    }

    fn push_string(out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }

    pub fn input() -> Vec<u8> {
        unreachable!("the mock dispatches calls itself")
    }

    pub fn caller() -> Vec<u8> {
        with(|world| {
            let mut out = Vec::new();
            push_string(&mut out, &world.organisation);
            push_string(&mut out, &world.name);
            push_string(&mut out, &world.role);
            out.extend_from_slice(&[7; 32]);
            out
        })
    }

    pub fn attribute(name: &str) -> Option<String> {
        with(|world| {
            world.attributes.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone())
        })
    }

    pub fn calling_contract() -> Option<String> {
        with(|world| world.frames.iter().rev().nth(1).cloned())
    }

    pub fn tx() -> [u8; 32] {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&height().to_be_bytes());
        id
    }

    pub fn height() -> u64 {
        with(|world| world.height)
    }

    pub fn block_time() -> u64 {
        with(|world| world.time_ms)
    }

    pub fn get(key: &[u8]) -> Option<Vec<u8>> {
        with(|world| world.state.get(&at(world, key)).cloned())
    }

    pub fn put(key: &[u8], value: &[u8]) {
        with(|world| world.state.insert(at(world, key), value.to_vec()));
    }

    pub fn delete(key: &[u8]) {
        with(|world| world.state.remove(&at(world, key)));
    }

    pub fn scan(start: &[u8], end: &[u8], limit: usize) -> Vec<u8> {
        with(|world| {
            let contract = world.frames.last().cloned().unwrap_or_default();
            let entries: Vec<_> = world
                .state
                .iter()
                .filter(|((namespace, key), _)| {
                    let below = end.is_empty() || key.as_slice() < end;
                    *namespace == contract && key.as_slice() >= start && below
                })
                .take(limit)
                .collect();
            let mut out = (entries.len() as u32).to_be_bytes().to_vec();
            for ((_, key), value) in entries {
                for part in [key, value] {
                    out.extend_from_slice(&(part.len() as u32).to_be_bytes());
                    out.extend_from_slice(part);
                }
            }
            out
        })
    }

    pub fn emit(name: &str, payload: &[u8]) {
        with(|world| world.events.push((name.to_owned(), payload.to_vec())));
    }

    pub fn call(request: &[u8]) -> Vec<u8> {
        let mut r = wire::Reader(request);
        let (contract, function) = (r.string(), r.string());
        let count = r.count();
        let args = Args::new((0..count).map(|_| r.bytes().to_vec()).collect());
        let functions = with(|world| {
            let found = world.contracts.iter().find(|(name, _)| *name == contract);
            let functions = found.expect("the called contract was added to the mock").1;
            world.frames.push(contract.clone());
            functions
        });
        let answer = dispatch(functions, &function, &args);
        with(|world| world.frames.pop());
        answer.expect("a fault in a called contract ends the transaction")
    }

    pub fn return_value(_: &[u8]) {}

    pub fn refuse(_: &str) {}

    pub fn log(_: &str) {}
}
