//! A signer whose times and failures are counted, wherever it signs: in the node's process, in the
//! signer's, beside the log's sync or on threads of its own.

use std::sync::Arc;
use std::time::Instant;

use crate::signer::SignError;
use crate::signer::SignRequest;
use crate::signer::Signer;
use crate::signer::guard::cleared::Signed;
use crate::signer::guard::standing::Answer;
use crate::signer::guard::standing::Opening;
use crate::signer::guard::standing::RecordCall;
use crate::telemetry::metrics::Metrics;
use crate::types::ids::SequenceNumber;
use crate::types::signature::PublicKey;

/// The node's signer, measured: lane `consensus` of the node's metrics.
pub struct Measured {
    signer: Arc<dyn Signer>,
    metrics: Arc<Metrics>,
}

impl Measured {
    /// Over a signer.
    pub fn new(signer: Arc<dyn Signer>, metrics: Arc<Metrics>) -> Self {
        Self { signer, metrics }
    }
}

impl Signer for Measured {
    fn sign(&self, requests: &[SignRequest]) -> Signed {
        // A round without drafts asks nobody.
        if requests.is_empty() {
            return self.signer.sign(requests);
        }
        let start = Instant::now();
        let signed = self.signer.sign(requests);
        let failed = signed.iter().filter(|result| result.is_err()).count();
        self.metrics.asked_signer("consensus", start.elapsed(), failed);
        signed
    }

    fn public_key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    fn parallel(&self) -> usize {
        self.signer.parallel()
    }

    fn bundles(&self) -> bool {
        self.signer.bundles()
    }

    fn trouble(&self) -> Option<String> {
        self.signer.trouble()
    }

    fn warnings(&self) -> Vec<String> {
        self.signer.warnings()
    }

    fn opening(&self) -> Opening {
        self.signer.opening()
    }

    fn record(&self, opening: Opening, call: &RecordCall) -> Result<Answer, SignError> {
        self.signer.record(opening, call)
    }

    fn forget_below(&self, sequence: SequenceNumber) -> Result<(), SignError> {
        self.signer.forget_below(sequence)
    }
}
