//! Free ports in a row, for tests that start the real program from a configuration: no two tests,
//! and no two runs of the suite on one machine, get the same ones.
//!
//! A row is owned by whoever listens on its last port. Rows lie below the range from which systems
//! give outgoing connections their ports, so that none of those lands in a row.

use std::net::TcpListener;

/// A row of ports, given back when dropped. The first `USABLE` of them are the test's.
pub struct Ports {
    first: u16,
    _owned: TcpListener,
}

impl Ports {
    /// The first port of a row that nobody uses.
    pub fn reserve() -> Self {
        // Runs that start together begin at different rows; the search is right without it.
        let begin = u16::try_from(std::process::id() % u32::from(ROWS)).unwrap();
        let rows = (0..ROWS).map(|row| FIRST + (begin + row) % ROWS * ROW);
        let free = rows.filter_map(|first| {
            let owned = TcpListener::bind(("127.0.0.1", first + USABLE)).ok()?;
            let unused = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            (first..first + USABLE).all(unused).then_some(Self { first, _owned: owned })
        });
        { free }.next().expect("a free row of ports")
    }

    pub fn first(&self) -> u16 {
        self.first
    }
}

/// Ports of a row that a test may use: a network of five on one machine.
pub const USABLE: u16 = 50;
const ROW: u16 = USABLE + 1;
const FIRST: u16 = 20_000;
const ROWS: u16 = (32_000 - FIRST) / ROW;

/// Two rows at one time do not overlap, and every usable port of a row can be listened on.
#[test]
fn rows_of_ports_do_not_overlap() {
    let rows: Vec<Ports> = (0..3).map(|_| Ports::reserve()).collect();
    let all: Vec<TcpListener> = rows
        .iter()
        .flat_map(|row| row.first()..row.first() + USABLE)
        .map(|port| TcpListener::bind(("127.0.0.1", port)).expect("free and in one row only"))
        .collect();
    assert_eq!(all.len(), 3 * usize::from(USABLE));
}
