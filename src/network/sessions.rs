//! The connections that stand with a certificate, so that they end when it stops counting.
//!
//! ```text
//! handshake -> enter: in the table, then checked once more -> Connection holds its `Session`
//! certificate revoked -> recheck: every certificate again; refused -> cut
//! cut -> the next read or write of the connection fails -> its server or client drops it
//! ```
//!
//! A connection is in the table before it is checked, and a revocation is known before `recheck`
//! runs; so whichever comes first, none slips through. What is cut reads nothing more: requests and
//! streams on it end at once, in whatever state. Anonymous connections are not in the table.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::network::tls::Check;
use crate::telemetry::metrics::Metrics;

/// The authenticated connections of one interface; bounded by its listener and its links.
pub struct Sessions {
    check: Check,
    metrics: Arc<Metrics>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    live: BTreeMap<u64, Live>,
}

struct Live {
    certificate: Bytes,
    address: SocketAddr,
    switch: Arc<Switch>,
}

/// Set once; wakes whoever waits on the connection.
#[derive(Default)]
struct Switch {
    cut: AtomicBool,
    waker: AtomicWaker,
}

/// A connection's place in the table, left when dropped.
pub struct Session {
    sessions: Arc<Sessions>,
    id: u64,
    switch: Arc<Switch>,
}

impl Sessions {
    /// An empty table. `check` says whether a certificate still counts.
    pub fn new(check: Check, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { check, metrics, table: Mutex::default() })
    }

    /// Enters a connection; refuses one whose certificate stopped counting during its handshake.
    pub fn enter(
        self: &Arc<Self>,
        certificate: &Bytes,
        address: SocketAddr,
    ) -> io::Result<Session> {
        let switch = Arc::<Switch>::default();
        let live = Live { certificate: certificate.clone(), address, switch: switch.clone() };
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.live.insert(id, live);
        drop(table);
        let session = Session { sessions: self.clone(), id, switch };
        (self.check)(certificate).map_err(refused)?;
        Ok(session)
    }

    /// Cuts every connection whose certificate counts no longer.
    pub fn recheck(&self) {
        let live = |table: &Table| table.live.values().map(|l| l.certificate.clone()).collect();
        let certificates: BTreeSet<Bytes> = live(&self.lock());
        for certificate in certificates {
            let Err(reason) = (self.check)(&certificate) else { continue };
            let table = self.lock();
            for live in table.live.values().filter(|live| live.certificate == certificate) {
                if !live.switch.cut.swap(true, Ordering::AcqRel) {
                    let address = live.address;
                    tracing::warn!(%address, %reason, "the certificate counts no longer; cut");
                    self.metrics.connections_cut.inc();
                    live.switch.waker.wake();
                }
            }
        }
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }
}

impl Session {
    /// An error once the connection is cut; until then the task is woken when it is.
    pub fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        self.switch.waker.register(cx.waker());
        match self.switch.cut.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(refused("it was cut".to_owned())),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.lock().live.remove(&self.id);
    }
}

fn refused(reason: String) -> io::Error {
    let text = format!("the certificate of this connection counts no longer: {reason}");
    io::Error::new(io::ErrorKind::ConnectionAborted, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    type Refused = Arc<Mutex<BTreeSet<Vec<u8>>>>;

    fn table() -> (Arc<Sessions>, Refused, Arc<Metrics>) {
        let refused = Refused::default();
        let asked = refused.clone();
        let check: Check = Arc::new(move |der| match asked.lock().unwrap().contains(der) {
            true => Err("revoked".to_owned()),
            false => Ok(()),
        });
        let metrics = Arc::new(Metrics::new());
        (Sessions::new(check, metrics.clone()), refused, metrics)
    }

    fn cut(session: &Session) -> bool {
        session.check(&mut Context::from_waker(std::task::Waker::noop())).is_err()
    }

    /// Only connections of the refused certificate are cut, each is counted once, and one that ends
    /// leaves the table.
    #[test]
    fn a_refused_certificate_is_cut_everywhere() {
        let (sessions, refused, metrics) = table();
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let enter = |name: &'static str| sessions.enter(&Bytes::from(name), address);
        let (a, again, b) = (enter("a").unwrap(), enter("a").unwrap(), enter("b").unwrap());
        sessions.recheck();
        assert_eq!((cut(&a), metrics.connections_cut.get()), (false, 0));
        refused.lock().unwrap().insert(b"a".to_vec());
        sessions.recheck();
        sessions.recheck();
        assert_eq!((cut(&a), cut(&again), cut(&b)), (true, true, false));
        assert_eq!(metrics.connections_cut.get(), 2);
        assert!(enter("a").is_err(), "a handshake that ends after the revocation");
        drop((a, again, b));
        assert!(sessions.is_empty());
    }

    /// A task that waits for bytes is woken by the cut.
    #[test]
    fn a_cut_wakes_who_waits() {
        let (sessions, refused, _) = table();
        let session = sessions.enter(&Bytes::from("a"), "127.0.0.1:1".parse().unwrap()).unwrap();
        let waiting = std::thread::spawn(move || {
            let wait = std::future::poll_fn(|cx| match session.check(cx) {
                Err(_) => std::task::Poll::Ready(()),
                Ok(()) => std::task::Poll::Pending,
            });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(wait);
        });
        refused.lock().unwrap().insert(b"a".to_vec());
        while !waiting.is_finished() {
            sessions.recheck();
            std::thread::yield_now();
        }
        waiting.join().unwrap();
    }
}
