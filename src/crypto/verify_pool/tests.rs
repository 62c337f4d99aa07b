//! The pool: verdicts in place, limits, stopping.

use std::sync::mpsc;

use super::*;
use crate::crypto::known_answers::Example;
use crate::crypto::providers::portable;

fn pool(threads: usize) -> VerifyPool {
    let config = PoolConfig { threads, cores: vec![0] };
    VerifyPool::start(Arc::new(Crypto::portable()), &config).unwrap()
}

/// `len` checks of one key; those at the places in `bad` are invalid.
fn checks(crypto: &Crypto, algorithm: Algorithm, len: usize, bad: &[usize]) -> Vec<OwnedCheck> {
    let example = Example::of(algorithm);
    let signer = (portable::PROVIDER.load)(algorithm, &example.pkcs8()).unwrap();
    let key = crypto.key(&example.public);
    (0..len)
        .map(|place| {
            let message = Bytes::from(place.to_be_bytes().to_vec());
            let mut signature = signer.sign(&message).unwrap();
            if bad.contains(&place) {
                signature.0[40] ^= 1;
            }
            OwnedCheck { key: key.clone(), message, signature }
        })
        .collect()
}

/// Aim: groups of both algorithms, larger and smaller than a chunk, get their verdicts in place.
#[test]
fn groups_get_their_verdicts() {
    let pool = pool(3);
    let (sender, receiver) = mpsc::channel();
    let cases = [
        (Algorithm::EcdsaP256, 1, vec![0]),
        (Algorithm::EcdsaP256, 50, vec![]),
        (Algorithm::EcdsaP256, 50, vec![0, 17, 49]),
        (Algorithm::Ed25519, 3, vec![1]),
        (Algorithm::Ed25519, 300, vec![]),
        (Algorithm::Ed25519, 300, vec![0, 63, 64, 299]),
    ];
    for (case, (algorithm, len, bad)) in cases.iter().enumerate() {
        let checks = checks(pool.crypto(), *algorithm, *len, bad);
        assert_eq!(verify_group(pool.crypto(), &checks).invalid(), bad);
        let sender = sender.clone();
        pool.submit(checks, Box::new(move |verdicts| sender.send((case, verdicts)).unwrap()))
            .unwrap();
    }
    for _ in 0..cases.len() {
        let (case, verdicts) = receiver.recv().unwrap();
        assert_eq!(verdicts.invalid(), cases[case].2);
        assert_eq!(verdicts.len(), cases[case].1);
    }
    assert_eq!(pool.waiting(), 0);
}

/// Aim: an empty group is answered at once; a group above the limit is refused.
#[test]
fn edges_of_group_size() {
    let pool = pool(1);
    let (sender, receiver) = mpsc::channel();
    pool.submit(Vec::new(), Box::new(move |verdicts| sender.send(verdicts).unwrap())).unwrap();
    assert!(receiver.try_recv().unwrap().is_empty());
    let one = checks(pool.crypto(), Algorithm::Ed25519, 1, &[]);
    let many = vec![one[0].clone(); limits::VERIFY_QUEUE_CHECKS_MAX + 1];
    let refused = pool.submit(many, Box::new(|_| panic!("must not be called")));
    assert!(matches!(refused, Err(PoolError::TooLarge { .. })));
}

/// Aim: a full queue refuses the group and takes it once there is room.
#[test]
fn full_queue_is_an_answer() {
    let pool = pool(1);
    let (release, blocked) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let mut one = checks(pool.crypto(), Algorithm::Ed25519, 1, &[]);
    // Refused by its bytes alone, so that the large groups take no time.
    one[0].signature = Signature([0; 64]);
    // Holds the only thread inside its callback.
    pool.submit(one.clone(), Box::new(move |_| blocked.recv().unwrap())).unwrap();
    let many = vec![one[0].clone(); limits::VERIFY_QUEUE_CHECKS_MAX / 2];
    let count = sender.clone();
    pool.submit(many.clone(), Box::new(move |v| count.send(v.len()).unwrap())).unwrap();
    let refused = loop {
        // The first group may still count as waiting for a moment.
        let count = sender.clone();
        match pool.submit(many.clone(), Box::new(move |v| count.send(v.len()).unwrap())) {
            Ok(()) => continue,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PoolError::Full { waiting } if waiting >= many.len()));
    release.send(()).unwrap();
    assert_eq!(receiver.recv().unwrap(), many.len());
}

/// Aim: an urgent group overtakes bulk groups that wait, and is taken when the bulk lane is full.
#[test]
fn urgent_goes_first() {
    let pool = pool(1);
    let (release, blocked) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let mut one = checks(pool.crypto(), Algorithm::Ed25519, 1, &[]);
    one[0].signature = Signature([0; 64]);
    pool.submit(one.clone(), Box::new(move |_| blocked.recv().unwrap())).unwrap();
    let half = vec![one[0].clone(); limits::VERIFY_QUEUE_CHECKS_MAX / 2];
    let name = |name| {
        let sender = sender.clone();
        Box::new(move |_| sender.send(name).unwrap())
    };
    pool.submit(half.clone(), name("bulk")).unwrap();
    while pool.submit(half.clone(), name("bulk")).is_ok() {}
    pool.submit_urgent(one, name("urgent")).unwrap();
    release.send(()).unwrap();
    assert_eq!(receiver.recv().unwrap(), "urgent");
    assert_eq!(receiver.recv().unwrap(), "bulk");
}

/// Aim: a flood on the urgent lane does not starve the bulk lane.
#[test]
fn bulk_gets_its_turn() {
    let pool = pool(1);
    let (release, blocked) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let one = checks(pool.crypto(), Algorithm::Ed25519, 1, &[]);
    pool.submit_urgent(one.clone(), Box::new(move |_| blocked.recv().unwrap())).unwrap();
    let name = |name| {
        let sender = sender.clone();
        Box::new(move |_| sender.send(name).unwrap())
    };
    for _ in 0..2 * BULK_EVERY {
        pool.submit_urgent(one.clone(), name("urgent")).unwrap();
    }
    pool.submit(one, name("bulk")).unwrap();
    release.send(()).unwrap();
    let order: Vec<&str> = receiver.iter().take(2 * BULK_EVERY + 1).collect();
    let bulk = order.iter().position(|name| *name == "bulk").unwrap();
    assert!((1..BULK_EVERY).contains(&bulk), "{order:?}");
}

/// Aim: dropping the pool finishes what was taken.
#[test]
fn drop_finishes_what_was_taken() {
    let pool = pool(2);
    let (sender, receiver) = mpsc::channel();
    for _ in 0..5 {
        let sender = sender.clone();
        let group = checks(pool.crypto(), Algorithm::Ed25519, 10, &[3]);
        pool.submit(group, Box::new(move |v| sender.send(v).unwrap())).unwrap();
    }
    drop(pool);
    drop(sender);
    let verdicts: Vec<Verdicts> = receiver.iter().collect();
    assert_eq!(verdicts.len(), 5);
    assert!(verdicts.iter().all(|v| v.invalid() == [3]));
}

/// Aim: a panic in a callback stops the pool instead of leaving it with fewer threads.
#[test]
fn panic_in_a_callback_stops_the_pool() {
    let pool = pool(1);
    let one = checks(pool.crypto(), Algorithm::Ed25519, 1, &[]);
    pool.submit(one.clone(), Box::new(|_| panic!("on purpose"))).unwrap();
    let refused = loop {
        match pool.submit(one.clone(), Box::new(|_| {})) {
            // The thread is still telling of its panic, which takes a while with a backtrace.
            Ok(()) | Err(PoolError::Full { .. }) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PoolError::Stopped));
}

/// Aim: no threads and too many threads are configuration errors that name the range.
#[test]
fn thread_count_is_checked() {
    for threads in [0, limits::VERIFY_THREADS_MAX + 1] {
        let config = PoolConfig { threads, cores: Vec::new() };
        let error = VerifyPool::start(Arc::new(Crypto::portable()), &config).err().unwrap();
        assert!(matches!(error, PoolError::Threads { .. }), "{error}");
    }
}

/// Aim: many submitting threads and groups of random sizes: each group is answered once.
#[test]
fn concurrent_submitters() {
    let pool = pool(2);
    let base = checks(pool.crypto(), Algorithm::Ed25519, 40, &[7]);
    std::thread::scope(|scope| {
        for submitter in 1..=4 {
            let (pool, base) = (&pool, &base);
            scope.spawn(move || {
                let (sender, receiver) = mpsc::channel();
                for round in 0..10 {
                    let len = (submitter * 11 + round * 3) % 40 + 1;
                    let sender = sender.clone();
                    let done = Box::new(move |v: Verdicts| sender.send((len, v)).unwrap());
                    pool.submit(base[..len].to_vec(), done).unwrap();
                }
                drop(sender);
                let answers: Vec<(usize, Verdicts)> = receiver.iter().collect();
                assert_eq!(answers.len(), 10);
                for (len, verdicts) in answers {
                    assert_eq!(verdicts.len(), len);
                    assert!(!verdicts.is_valid(7));
                    assert_eq!(verdicts.all_valid(), len <= 7);
                }
            });
        }
    });
}
