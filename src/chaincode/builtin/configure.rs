//! `configure`: parameters that every validator shares.
//!
//! `show()` returns them as JSON. They are those of the genesis document; changing them by
//! transaction is refused until validators can agree on the height from which a change holds.

use bytes::Bytes;

use crate::chaincode::Call;
use crate::chaincode::Fault;
use crate::chaincode::builtin;
use crate::chaincode::builtin::Builtin;
use crate::chaincode::builtin::Services;
use crate::chaincode::contracts::Contracts;

/// The contract's name.
pub const NAME: &str = "configure";

/// The contract.
pub struct Configure;

impl Builtin for Configure {
    fn name(&self) -> &'static str {
        NAME
    }

    fn functions(&self) -> &'static [&'static str] {
        &["show()", "set(parameter, value)"]
    }

    fn run(
        &self,
        contracts: &Contracts,
        call: &Call,
        _: &mut Services<'_>,
    ) -> Result<Bytes, Fault> {
        match call.function.as_str() {
            "show" => {
                builtin::require_args(call, 0, "no arguments")?;
                Ok(show(contracts))
            }
            "set" => {
                builtin::require_admin(call)?;
                Err(builtin::refused(
                    "network parameters cannot be changed by transaction in this version; they are \
                     those of the genesis document",
                ))
            }
            _ => Err(builtin::unknown_function(self, call)),
        }
    }
}

fn show(contracts: &Contracts) -> Bytes {
    let parameters = contracts.parameters();
    let shown = serde_json::json!({
        "checkpoint_interval": parameters.checkpoint_interval,
        "window": parameters.window,
        "block_batches_max": parameters.block_batches_max,
        "fuel_max": parameters.fuel_max,
        "block_time_skew_ms": parameters.block_time_skew_ms,
    });
    Bytes::from(shown.to_string())
}
