//! `/registrar`: the logins of 2016, which this node does not offer.
//!
//! In 2016 the peer kept the users' keys, and whoever named a logged-in user acted as that user.
//! Here the key stays with its owner. The routes exist so that an old client is told so.

use crate::api::action::Action;
use crate::api::action::Kind;
use crate::api::failure::Failure;
use crate::api::rest::route::Answering;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;

/// The rows.
pub const ROUTES: &[Route] = &[
    row(Verb::Post, "/registrar"),
    row(Verb::Get, "/registrar/{user}"),
    row(Verb::Delete, "/registrar/{user}"),
    row(Verb::Get, "/registrar/{user}/ecert"),
    row(Verb::Get, "/registrar/{user}/tcert"),
];

const fn row(verb: Verb, path: &'static str) -> Route {
    Route {
        verb,
        path,
        kind: Kind::Registrar,
        summary: "Custodial login of 2016: not offered; says what to do instead.",
        query: &[],
        body: None,
        answer: &NOTHING,
        run,
    }
}

fn run(request: Request) -> Answering {
    Box::pin(async move {
        request.perform(Action::Registrar).await?;
        Err(Failure::internal("the registrar answered"))
    })
}

/// There is no success.
pub const NOTHING: Schema = Schema {
    name: "NotOffered",
    doc: "There is no success; the failure says what to do instead.",
    fields: &[always("error", "any", "Always this.")],
};
