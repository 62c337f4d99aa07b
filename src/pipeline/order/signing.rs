//! Rounds whose messages wait for their signatures, while the driver goes on.
//!
//! ```text
//! release --begin--> texts -> threads, one call of the signer each -> finished -- in order --> send
//! ```
//!
//! Used where one signature takes much longer than a sync: a token's. As many rounds are under way
//! as the signer works on at once; what becomes ready meanwhile is the next round, so that a bundle
//! grows with the load. A fast signer is called by the driver itself, beside the log's sync.
//!
//! Invariants: rounds come back in the order they began. The log of a round was made durable before
//! it is taken back: the driver syncs between beginning and finishing.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;
use crossbeam_channel::bounded;
use crossbeam_channel::never;

use crate::signer::SignRequest;
use crate::signer::Signer;
use crate::signer::guard::cleared::Signed;
use crate::types::limits;

type Answer = (u64, Signed);

/// The rounds under way; `R` is what waits for the signatures.
pub struct Signing<R> {
    texts: Sender<(u64, Vec<SignRequest>)>,
    answers: Receiver<Answer>,
    rounds: VecDeque<R>,
    /// Number of the oldest round.
    oldest: u64,
    /// Answers that came before an older round's.
    early: BTreeMap<u64, Signed>,
    parallel: usize,
}

impl<R> Signing<R> {
    /// Threads for as many rounds as the signer works on at once; none for a fast signer. They end
    /// when this is dropped.
    pub fn start(signer: &Arc<dyn Signer>) -> Self {
        let parallel = signer.parallel().min(limits::SIGNER_PARALLEL_MAX);
        let (texts, work) = bounded::<(u64, Vec<SignRequest>)>(parallel);
        let (rounds, early) = (VecDeque::new(), BTreeMap::new());
        if parallel <= 1 {
            return Self { texts, answers: never(), rounds, oldest: 0, early, parallel };
        }
        let (done, answers) = bounded(parallel);
        for _ in 0..parallel {
            let (signer, work, done) = (signer.clone(), work.clone(), done.clone());
            std::thread::Builder::new()
                .name("vote-sign".into())
                .spawn(move || {
                    for (number, texts) in work {
                        if done.send((number, signer.sign(&texts))).is_err() {
                            return;
                        }
                    }
                })
                .expect("the system can start a thread at start-up");
        }
        Self { texts, answers, rounds, oldest: 0, early, parallel }
    }

    /// False where the driver asks the signer itself.
    pub fn is_apart(&self) -> bool {
        self.parallel > 1
    }

    /// True while no further round may begin.
    pub fn is_full(&self) -> bool {
        self.is_apart() && self.rounds.len() >= self.parallel
    }

    /// Has the texts of a round signed. Only while it is not full.
    pub fn begin(&mut self, round: R, texts: Vec<SignRequest>) {
        let number = self.oldest + self.rounds.len() as u64;
        self.rounds.push_back(round);
        self.texts.send((number, texts)).expect("the threads live as long as this");
    }

    /// Where answers arrive; each is given to `arrived`.
    pub fn answers(&self) -> &Receiver<Answer> {
        &self.answers
    }

    /// Takes an answer from `answers`.
    pub fn arrived(&mut self, (number, signed): Answer) {
        self.early.insert(number, signed);
    }

    /// The oldest round, where its answer has arrived.
    pub fn finished(&mut self) -> Option<(R, Signed)> {
        self.answers.try_iter().for_each(|(number, signed)| {
            self.early.insert(number, signed);
        });
        let signed = self.early.remove(&self.oldest)?;
        self.oldest += 1;
        let round = self.rounds.pop_front().expect("a round for each number");
        Some((round, signed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use super::*;
    use crate::signer::SignError;
    use crate::signer::guard::standing::Answer;
    use crate::signer::guard::standing::Opening;
    use crate::signer::guard::standing::RecordCall;
    use crate::signer::guard::standing::Standing;
    use crate::types::ids::SequenceNumber;
    use crate::types::signature::Algorithm;
    use crate::types::signature::PublicKey;

    /// Answers only when two calls are under way, the later one first.
    struct Slow {
        key: PublicKey,
        both: Barrier,
    }

    impl Signer for Slow {
        fn sign(&self, requests: &[SignRequest]) -> Signed {
            self.both.wait();
            if requests.len() == 1 {
                std::thread::sleep(Duration::from_millis(20));
            }
            let reason = "none".to_owned();
            requests.iter().map(|_| Err(SignError::Key { reason: reason.clone() })).collect()
        }

        fn public_key(&self) -> &PublicKey {
            &self.key
        }

        fn parallel(&self) -> usize {
            2
        }

        fn bundles(&self) -> bool {
            false
        }

        fn opening(&self) -> Opening {
            Opening::default()
        }

        fn record(&self, _: Opening, _: &RecordCall) -> Result<Answer, SignError> {
            Ok(Answer { standing: Standing::Complete, floor: SequenceNumber(0) })
        }
    }

    /// Two rounds are signed at once and come back in the order they began.
    #[test]
    fn rounds_overlap_and_keep_their_order() {
        let key = PublicKey::new(Algorithm::Ed25519, &[1; 32]).unwrap();
        let signer: Arc<dyn Signer> = Arc::new(Slow { key, both: Barrier::new(2) });
        let mut signing = Signing::start(&signer);
        let text = SignRequest { slot: None, text: bytes::Bytes::new(), ahead: false };
        assert!(signing.is_apart());
        for _ in 0..3 {
            assert!(!signing.is_full());
            signing.begin("first", vec![text.clone()]);
            signing.begin("second", vec![text.clone(), text.clone()]);
            assert!(signing.is_full());
            let mut order = Vec::new();
            while order.len() < 2 {
                let answer = signing.answers().recv().unwrap();
                signing.arrived(answer);
                while let Some((round, signed)) = signing.finished() {
                    order.push((round, signed.len()));
                }
            }
            assert_eq!(order, [("first", 1), ("second", 2)]);
        }
    }
}
