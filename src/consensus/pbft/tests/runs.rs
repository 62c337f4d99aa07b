//! Whole runs of a small cluster under a seeded schedule: agreement always, progress once healed.

use super::cluster::Cluster;
use super::words::batch;

/// Batches submitted everywhere are delivered everywhere, through several checkpoints.
#[test]
fn four_replicas_deliver_everything_in_one_order() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(4, seed);
        for i in 0..60 {
            cluster.submit_all(batch(i));
            (0..30).for_each(|_| cluster.turn());
        }
        cluster.run_until(20_000, |c| c.all_delivered(0..60));
        assert!(cluster.members.iter().all(|m| m.accused == 0 && m.refused == 0));
    }
}

/// Any number of replicas from one to seven orders, one included.
#[test]
fn every_small_number_of_replicas_orders() {
    for n in 1..=7 {
        let mut cluster = Cluster::new(n, 7);
        (0..20).for_each(|i| cluster.submit_all(batch(i)));
        cluster.run_until(40_000, |c| c.all_delivered(0..20));
    }
}

/// The primary never starts: the next one orders, whoever knows the batch.
#[test]
fn dead_primary_is_replaced() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(4, seed);
        cluster.crash(0);
        (0..10).for_each(|i| cluster.submit_all(batch(i)));
        cluster.run_until(40_000, |c| c.all_delivered(0..10));
    }
}

/// Messages are lost, reordered, replicas crash and restart in turn: all is delivered in the end.
#[test]
fn loss_and_restarts_lose_nothing() {
    for seed in 0..60 {
        let mut cluster = Cluster::new(4, seed);
        cluster.loss_percent = 10;
        let mut down: Option<u16> = None;
        for i in 0..80 {
            cluster.submit_all(batch(i));
            for _ in 0..60 {
                cluster.turn();
            }
            if cluster.random(10) == 0 {
                match down.take() {
                    Some(i) => cluster.start(i),
                    None => {
                        let i = u16::try_from(cluster.random(4)).unwrap();
                        cluster.crash(i);
                        down = Some(i);
                    }
                }
            }
        }
        down.into_iter().for_each(|i| cluster.start(i));
        cluster.loss_percent = 0;
        cluster.run_until(100_000, |c| c.all_delivered(0..80));
    }
}

/// A replica is cut off while the others run far beyond its window; after the cut it follows.
#[test]
fn isolated_replica_returns() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(4, seed);
        let victim = u16::try_from(seed % 4).unwrap();
        cluster.cut.insert(victim);
        for i in 0..60 {
            cluster.submit_all(batch(i));
            (0..60).for_each(|_| cluster.turn());
        }
        cluster.cut.clear();
        cluster.run_until(100_000, |c| c.all_delivered(0..60));
    }
}

/// All crash at once, several times, with messages under way: nothing is lost, nothing is signed
/// twice differently.
#[test]
fn all_crash_together_and_go_on() {
    for seed in 0..30 {
        let mut cluster = Cluster::new(4, seed);
        for i in 0..40 {
            cluster.submit_all(batch(i));
            let turns = cluster.random(80);
            (0..turns).for_each(|_| cluster.turn());
            if cluster.random(8) == 0 {
                (0..4).for_each(|k| cluster.crash(k));
                cluster.flights.clear();
                (0..4).for_each(|k| cluster.start(k));
            }
        }
        cluster.run_until(100_000, |c| c.all_delivered(0..40));
        assert!(cluster.members.iter().all(|m| m.refused == 0 && m.accused == 0));
    }
}

/// An idle network with null requests goes through many checkpoints without growing.
#[test]
fn idle_network_stays_small() {
    let mut cluster = Cluster::new(4, 3);
    cluster.tuning.null_request_ms = 100;
    (0..4).for_each(|k| cluster.crash(k));
    (0..4).for_each(|k| cluster.start(k));
    cluster.run_until(100_000, |c| c.members.iter().all(|m| m.chain.len() >= 200));
    for member in &cluster.members {
        let core = member.core.as_ref().unwrap();
        assert_eq!(core.tip.height.0, 0);
        assert!(core.log.entries().count() <= 16 && core.early.len() <= 16);
        assert!(member.log.len() <= 120, "{} records", member.log.len());
    }
}
