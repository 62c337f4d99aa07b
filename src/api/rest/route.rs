//! What a route is: one row from which the router, the OpenAPI document and the tests are made.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::Service;
use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::auth::Caller;
use crate::api::failure::Failure;
use crate::types::ids::Height;
use crate::types::ids::TxId;

/// One route.
pub struct Route {
    /// HTTP method.
    pub verb: Verb,
    /// Path with `{name}` for parameters.
    pub path: &'static str,
    /// Row of the permission table; checked before the body is read.
    pub kind: Kind,
    /// One line for the document.
    pub summary: &'static str,
    /// Query parameters; any other name is refused.
    pub query: &'static [Param],
    /// JSON body, where there is one.
    pub body: Option<&'static Schema>,
    /// What a success looks like.
    pub answer: &'static Schema,
    /// Does it.
    pub run: fn(Request) -> Answering,
}

/// Methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads.
    Get,
    /// Writes or asks with a body.
    Post,
    /// Removes.
    Delete,
}

/// A query parameter.
pub struct Param {
    /// Name.
    pub name: &'static str,
    /// JSON type in the document.
    pub kind: &'static str,
    /// One line for the document.
    pub doc: &'static str,
}

/// The shape of a JSON object, for the document. `media` is JSON unless said otherwise.
pub struct Schema {
    /// Name in the document.
    pub name: &'static str,
    /// One line.
    pub doc: &'static str,
    /// Members.
    pub fields: &'static [Field],
}

/// One member of a JSON object.
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// `integer`, `string`, `boolean`, `base64`, `hex`, `any`, the name of a schema, or one of
    /// these in brackets for a list.
    pub kind: &'static str,
    /// Always there?
    pub required: bool,
    /// One line.
    pub doc: &'static str,
}

/// A member that is always there.
pub const fn always(name: &'static str, kind: &'static str, doc: &'static str) -> Field {
    Field { name, kind, required: true, doc }
}

/// A member that may be left out.
pub const fn sometimes(name: &'static str, kind: &'static str, doc: &'static str) -> Field {
    Field { name, kind, required: false, doc }
}

/// A request on its way to `Route::run`.
pub struct Request {
    /// What serves it.
    pub service: Service,
    /// Who asks.
    pub caller: Caller,
    /// Path parameters, decoded.
    pub path: Vec<(String, String)>,
    /// Query parameters, decoded; names are known to the route.
    pub query: Vec<(String, String)>,
    /// Media type of the body, lower case, without parameters.
    pub media: String,
    /// The body, within its limit.
    pub body: Bytes,
}

/// A finished answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Media type.
    pub media: &'static str,
    /// Body.
    pub body: Bytes,
    /// `Retry-After`, seconds; 0 = none.
    pub retry_after_s: u64,
}

/// The future of a reply.
pub type Answering = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

/// Media type of JSON.
pub const JSON: &str = "application/json";
/// Media type of raw bytes.
pub const BYTES: &str = "application/octet-stream";

impl Verb {
    /// Name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl Request {
    /// Passes an action on, as this request's caller.
    pub async fn perform(&self, action: Action) -> Result<Answer, Failure> {
        self.service.perform(&self.caller, action).await
    }

    /// A path parameter; the route table guarantees that it is there.
    pub fn path(&self, name: &str) -> &str {
        find(&self.path, name).unwrap_or_default()
    }

    /// A query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        find(&self.query, name)
    }

    /// The path parameter `height`.
    pub fn height(&self) -> Result<Height, Failure> {
        let text = self.path("height");
        text.parse().map(Height).map_err(|_| {
            Failure::malformed(format!("block number {text:?} is not a whole number below 2^64"))
                .hint("use a decimal number, as in /chain/blocks/1")
        })
    }

    /// The path parameter `id`.
    pub fn tx_id(&self) -> Result<TxId, Failure> {
        self.path("id").parse().map(TxId).map_err(|reason: String| {
            Failure::malformed(format!("transaction id: {reason}"))
                .hint("a transaction id is the SHA-256 of its payload, 64 hex digits")
        })
    }

    /// A query parameter that is a whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.query(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Failure::malformed(format!("query parameter {name}: {text:?} is not a whole number"))
        })
    }

    /// A query parameter that is `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.query(name) {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(other) => {
                let text = format!("query parameter {name}: {other:?} is not true or false");
                Err(Failure::malformed(text))
            }
        }
    }
}

impl Reply {
    /// 200 with JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, Failure> {
        Self::json_with_status(200, value)
    }

    /// JSON with another status. One line, compact, ended by a line feed, as in 2016.
    pub fn json_with_status(status: u16, value: &impl Serialize) -> Result<Self, Failure> {
        let mut body = serde_json::to_vec(value)
            .map_err(|error| Failure::internal(format!("the answer has no JSON form: {error}")))?;
        body.push(b'\n');
        Ok(Self { status, media: JSON, body: body.into(), retry_after_s: 0 })
    }

    /// 200 with text of another media type.
    pub fn text(media: &'static str, text: String) -> Self {
        Self { status: 200, media, body: text.into(), retry_after_s: 0 }
    }
}

/// A body as JSON. Unknown members are refused by the types' own rule.
pub fn from_json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::malformed(format!("request body: {error}")))
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}
