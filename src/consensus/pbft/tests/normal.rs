//! Steps of the normal case.

use super::cluster::*;
use crate::types::ids::SequenceNumber;
use crate::types::vote::Phase;

/// A backup votes once it has the body, commits once prepared, delivers once committed.
///
/// ```text
/// 0  PRE-PREPARE(1) -> 1      prepare x 3 -> 1      commit x 3 -> 1
/// 1                  PREPARE               COMMIT             deliver 1
/// ```
#[test]
fn backup_goes_through_the_three_phases() {
    let mut one = Solo::new(setup(4, 1));
    one.has(&[1]);
    let p = proposal(0, 1, &[1]);
    let digest = p.digest(&chain());
    let effects = one.receive(pre_prepare(0, &p));
    assert_eq!(votes(&effects, Phase::Prepare)[0].digest, digest);
    let prepares = [0, 1, 2].map(|i| vote(i, Phase::Prepare, 0, 1, digest));
    let effects = one.receive_all(prepares);
    let (tip, commit) = setup(4, 1).tip.extend(chain(), &p);
    assert_eq!(votes(&effects, Phase::Commit)[0].digest, commit);
    let effects = one.receive_all([0, 1, 2].map(|i| vote(i, Phase::Commit, 0, 1, commit)));
    let delivered = deliveries(&effects);
    assert_eq!(delivered[0].proposal, p);
    assert_eq!(delivered[0].certificate.vote.digest, tip.hash.0);
    assert_eq!(one.0.tip.sequence, SequenceNumber(1));
}
