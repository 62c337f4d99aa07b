//! `POST /chaincode`: JSON-RPC 2.0 as in 2016, with one deviation: the node holds no client's key,
//! so `deploy` and `invoke` carry a transaction that the client signed (`params.signedTransaction`,
//! base64, and `params.certificate`). `query` takes the parameters of 2016; its caller is the TLS
//! certificate's, whatever `secureContext` says.
//!
//! HTTP status and error codes follow the table of 2016: the envelope's faults have HTTP statuses
//! of their own, faults of the call itself answer 200 with an error object. A full queue answers
//! 429. A request without `id` is a notification: it is carried out and answered 200 with an empty
//! body, even where it fails.

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::api::action::Action;
use crate::api::action::Answer;
use crate::api::action::Kind;
use crate::api::auth::Caller;
use crate::api::failure::Failure;
use crate::api::rest::json;
use crate::api::rest::route::JSON;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;
use crate::api::rest::route::Verb;
use crate::api::rest::route::always;
use crate::api::rest::route::sometimes;
use crate::api::rest::transactions;
use crate::types::limits;
use crate::types::transaction::Transaction;

/// The rows.
pub const ROUTES: &[Route] = &[Route {
    verb: Verb::Post,
    path: "/chaincode",
    // Whether the method itself is allowed is decided when it is known.
    kind: Kind::Envelope,
    summary: "JSON-RPC 2.0: deploy and invoke carry a signed transaction, query is answered here.",
    query: &[],
    body: Some(&CALL),
    answer: &RESPONSE,
    run: |request| Box::pin(call(request)),
}];

/// The call as far as it could be read, before its parameters.
struct Envelope {
    method: Method,
    params: Value,
    id: Option<Value>,
}

/// What a call asks the node for.
#[derive(Debug)]
pub struct Call {
    id: Option<Value>,
    method: Method,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Deploy,
    Invoke,
    Query,
}

/// An error object with the HTTP status it travels under.
#[derive(Debug)]
pub struct RpcError {
    http: u16,
    code: i32,
    message: &'static str,
    data: String,
    retry_after_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedParams {
    #[serde(rename = "signedTransaction")]
    signed_transaction: String,
    certificate: Option<String>,
    // Accepted from clients of 2016 and checked against the transaction where it speaks about it.
    #[serde(rename = "chaincodeID")]
    chaincode_id: Option<ChaincodeId>,
    #[serde(rename = "type")]
    _kind: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryParams {
    #[serde(rename = "chaincodeID")]
    chaincode_id: Option<ChaincodeId>,
    #[serde(rename = "ctorMsg")]
    ctor: Option<Ctor>,
    #[serde(rename = "secureContext")]
    secure_context: Option<String>,
    #[serde(rename = "type")]
    _kind: Option<Value>,
    #[serde(rename = "confidentialityLevel")]
    _confidentiality: Option<Value>,
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[serde(rename = "attributes")]
    _attributes: Option<Value>,
    #[serde(rename = "timeout")]
    _timeout: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChaincodeId {
    name: Option<String>,
    #[serde(rename = "path")]
    _path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ctor {
    function: Option<String>,
    args: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Success {
    jsonrpc: &'static str,
    result: ResultFields,
    id: Value,
}

#[derive(Serialize)]
struct ResultFields {
    status: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

#[derive(Serialize)]
struct Error {
    jsonrpc: &'static str,
    error: ErrorFields,
    id: Value,
}

#[derive(Serialize)]
struct ErrorFields {
    code: i32,
    message: &'static str,
    data: String,
}

async fn call(request: Request) -> Result<Reply, Failure> {
    let (id, outcome) = match read(&request.body, &request.caller) {
        Err((id, error)) => (id, Err(error)),
        Ok(Call { id, method, action }) => {
            let outcome = match request.perform(action).await {
                Ok(answer) => result(method, answer),
                Err(failure) => Err(failed(method, &failure)),
            };
            (id, outcome)
        }
    };
    let Some(id) = id else {
        return Ok(Reply { status: 200, media: JSON, body: Bytes::new(), retry_after_s: 0 });
    };
    match outcome {
        Ok(result) => Reply::json(&Success { jsonrpc: "2.0", result, id }),
        Err(error) => {
            let RpcError { http, code, message, data, retry_after_ms } = error;
            let error = ErrorFields { code, message, data };
            let body = Error { jsonrpc: "2.0", error, id };
            let mut reply = Reply::json_with_status(http, &body)?;
            reply.retry_after_s = retry_after_ms.div_ceil(1000);
            Ok(reply)
        }
    }
}

/// Reads a call as far as that is possible without the node. The error keeps the id, so that a
/// notification stays silent.
pub fn read(body: &Bytes, caller: &Caller) -> Result<Call, (Option<Value>, RpcError)> {
    let Envelope { method, params, id } = envelope(body)?;
    let action = match method {
        Method::Query => query(params, caller),
        method => submission(method, params),
    };
    match action {
        Ok(action) => Ok(Call { id, method, action }),
        Err(error) => Err((id, error)),
    }
}

fn result(method: Method, answer: Answer) -> Result<ResultFields, RpcError> {
    match answer {
        Answer::Submitted(id) => Ok(ok(id.to_string())),
        Answer::Value { value, .. } => Ok(match json::text(&value) {
            Some(text) => ok(text),
            None => ResultFields { encoding: Some("base64"), ..ok(json::base64(&value)) },
        }),
        _ => Err(failed(method, &Failure::internal("the answer is not of the call's kind"))),
    }
}

/// Reads the envelope. The error keeps the id, so that a notification stays silent.
fn envelope(body: &Bytes) -> Result<Envelope, (Option<Value>, RpcError)> {
    let null = Some(Value::Null);
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err((null, invalid_request("the body is empty")));
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| (null.clone(), parse_error(format!("not JSON: {error}"))))?;
    let Value::Object(mut members) = value else {
        return Err((null, parse_error("the call must be one JSON object; batches are not taken")));
    };
    let id = members.remove("id");
    if !matches!(id, None | Some(Value::String(_) | Value::Number(_) | Value::Null)) {
        return Err((null, parse_error("id must be a number or a string")));
    }
    match members.remove("jsonrpc") {
        Some(Value::String(version)) if version == "2.0" => {}
        _ => return Err((id, invalid_request("jsonrpc must be \"2.0\""))),
    }
    let method = match members.remove("method") {
        Some(Value::String(name)) => match name.as_str() {
            "deploy" => Method::Deploy,
            "invoke" => Method::Invoke,
            "query" => Method::Query,
            _ => {
                let data = "the method must be deploy, invoke or query".to_owned();
                return Err((id, rpc(404, -32601, "Method not found", data)));
            }
        },
        Some(_) => return Err((id, parse_error("method must be a string"))),
        None => return Err((id, invalid_request("method is missing"))),
    };
    let params = match members.remove("params") {
        Some(params) if params.is_object() => params,
        Some(_) => return Err((id, parse_error("params must be an object"))),
        None => return Err((id, rpc(400, -32602, "Invalid params", "params are missing".into()))),
    };
    match members.keys().next() {
        Some(name) => {
            let name: String = name.chars().take(NAME_CHARS_QUOTED).collect();
            Err((id, invalid_request(format!("unknown member {name:?}"))))
        }
        None => Ok(Envelope { method, params, id }),
    }
}

fn submission(method: Method, params: Value) -> Result<Action, RpcError> {
    if params.get("signedTransaction").is_none() {
        return Err(invalid_params(
            "signedTransaction is missing; this node signs for nobody: sign with the client \
             library and send the transaction as base64, or use `obelisk chaincode`",
        ));
    }
    let params: SignedParams =
        serde_json::from_value(params).map_err(|error| invalid_params(error.to_string()))?;
    let invalid = |failure: Failure| invalid_params(failure.to_string());
    let transaction =
        transactions::signed("signedTransaction", &params.signed_transaction).map_err(invalid)?;
    check_method(method, params.chaincode_id.as_ref(), &transaction)?;
    let certificate = transactions::certificate(params.certificate.as_deref()).map_err(invalid)?;
    Ok(Action::Submit { transaction: Box::new(transaction), certificate })
}

/// A client that says one thing in the envelope and signed another made a mistake.
fn check_method(
    method: Method,
    named: Option<&ChaincodeId>,
    transaction: &Transaction,
) -> Result<(), RpcError> {
    let payload = transaction.payload();
    if method == Method::Deploy && payload.chaincode != LIFECYCLE {
        let data = format!("a deploy calls {LIFECYCLE:?}, this one calls {:?}", payload.chaincode);
        return Err(invalid_params(data));
    }
    match named.and_then(|id| id.name.as_ref()) {
        Some(name) if method == Method::Invoke && *name != payload.chaincode => {
            let signed = &payload.chaincode;
            let data = format!("chaincodeID names {name:?}, the signed transaction {signed:?}");
            Err(invalid_params(data))
        }
        _ => Ok(()),
    }
}

fn query(params: Value, caller: &Caller) -> Result<Action, RpcError> {
    let params: QueryParams =
        serde_json::from_value(params).map_err(|error| invalid_params(error.to_string()))?;
    let name = params.chaincode_id.and_then(|id| id.name).unwrap_or_default();
    if name.trim().is_empty() {
        return Err(invalid_params("chaincodeID.name is missing or blank"));
    }
    let Some(Ctor { function, args: Some(args) }) = params.ctor else {
        return Err(invalid_params("ctorMsg or ctorMsg.args is missing"));
    };
    check_context(caller, params.secure_context.as_deref())?;
    let mut args = args.into_iter();
    let Some(function) = function.or_else(|| args.next()) else {
        return Err(invalid_params("ctorMsg names no function and args is empty"));
    };
    let args: Vec<Bytes> = args.map(Bytes::from).collect();
    if args.len() > limits::ARGS_MAX || function.len() > limits::NAME_BYTES_MAX {
        let data = format!(
            "at most {} args and a function name of {} bytes",
            limits::ARGS_MAX,
            limits::NAME_BYTES_MAX
        );
        return Err(invalid_params(data));
    }
    Ok(Action::Query { chaincode: name, function, args })
}

/// `secureContext` made an identity in 2016. Here it must agree with the one that was proven.
fn check_context(caller: &Caller, named: Option<&str>) -> Result<(), RpcError> {
    match (named, caller) {
        (None | Some(""), _) => Ok(()),
        (Some(name), Caller::Member(member)) if member.name == name => Ok(()),
        (Some(_), Caller::Member(member)) => Err(invalid_params(format!(
            "secureContext names another user than the TLS certificate, which is {:?}'s; leave \
             secureContext out",
            member.name
        ))),
        (Some(_), Caller::Anonymous) => Err(rpc(
            200,
            -32000,
            "Registration missing",
            "this node keeps no logins; connect with the user's TLS certificate".to_owned(),
        )),
    }
}

fn ok(message: String) -> ResultFields {
    ResultFields { status: "OK", message, encoding: None }
}

fn rpc(http: u16, code: i32, message: &'static str, data: String) -> RpcError {
    RpcError { http, code, message, data, retry_after_ms: 0 }
}

fn parse_error(data: impl Into<String>) -> RpcError {
    rpc(400, -32700, "Parse error", data.into())
}

fn invalid_request(data: impl Into<String>) -> RpcError {
    rpc(400, -32600, "Invalid request", data.into())
}

fn invalid_params(data: impl Into<String>) -> RpcError {
    rpc(200, -32602, "Invalid params", data.into())
}

fn failed(method: Method, failure: &Failure) -> RpcError {
    let (code, message) = match (failure.code.word, method) {
        ("unauthenticated", _) => (-32000, "Registration missing"),
        ("internal", _) => (-32603, "Internal error"),
        (_, Method::Deploy) => (-32001, "Deployment failure"),
        (_, Method::Invoke) => (-32002, "Invocation failure"),
        (_, Method::Query) => (-32003, "Query failure"),
    };
    // Old clients read the body of a 200; who must come back later or has no right sees it in HTTP.
    let http = match failure.code.http {
        status @ (401 | 403 | 429 | 503) => status,
        _ => 200,
    };
    let data = match failure.code.word {
        // The contract's own words, as in 2016.
        "refused" => failure.message.clone(),
        _ => failure.to_string(),
    };
    let retry_after_ms = failure.retry_after_ms;
    RpcError { retry_after_ms, ..rpc(http, code, message, data) }
}

const LIFECYCLE: &str = "lifecycle";
const NAME_CHARS_QUOTED: usize = 40;

/// The call.
pub const CALL: Schema = Schema {
    name: "ChaincodeCall",
    doc: "A JSON-RPC 2.0 call.",
    fields: &[
        always("jsonrpc", "string", "\"2.0\"."),
        always("method", "string", "deploy, invoke or query."),
        always(
            "params",
            "any",
            "deploy, invoke: {signedTransaction, certificate?}; query: {chaincodeID:{name}, \
             ctorMsg:{function, args}}.",
        ),
        sometimes("id", "any", "Number or string; left out for a notification."),
    ],
};

/// The response.
pub const RESPONSE: Schema = Schema {
    name: "ChaincodeResponse",
    doc: "A JSON-RPC 2.0 response: `result` with status OK and a message (transaction id, or the \
          value), or `error` with code, message and data.",
    fields: &[
        always("jsonrpc", "string", "\"2.0\"."),
        sometimes("result", "any", "Success: {status, message}."),
        sometimes("error", "any", "Failure: {code, message, data}."),
        always("id", "any", "As in the call."),
    ],
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(body: &str) -> (Option<Value>, u16, i32) {
        let (id, error) = envelope(&Bytes::copy_from_slice(body.as_bytes())).err().expect(body);
        (id, error.http, error.code)
    }

    /// The envelope's faults have the statuses and codes of 2016, and a malformed notification
    /// stays silent.
    #[test]
    fn envelopes_are_judged_as_in_2016() {
        let null = Some(Value::Null);
        assert_eq!(refused(""), (null.clone(), 400, -32600));
        assert_eq!(refused(" \n"), (null.clone(), 400, -32600));
        assert_eq!(refused("{"), (null.clone(), 400, -32700));
        assert_eq!(refused("7"), (null, 400, -32700));
        assert_eq!(refused("{}"), (None, 400, -32600));
        assert_eq!(refused(r#"{"jsonrpc":"2.0","id":1}"#).2, -32600);
        assert_eq!(refused(r#"{"jsonrpc":"2.0","method":1,"id":1}"#).2, -32700);
        assert_eq!(refused(r#"{"jsonrpc":"2.0","method":"x","id":1}"#).1, 404);
        assert_eq!(refused(r#"{"jsonrpc":"2.0","method":"query","id":1}"#).2, -32602);
        assert_eq!(refused(r#"{"jsonrpc":"2.0","method":"query","params":[],"id":1}"#).2, -32700);
        let extra = r#"{"jsonrpc":"2.0","method":"query","params":{},"id":1,"speed":9}"#;
        assert_eq!(refused(extra).2, -32600);
        let good = br#"{"jsonrpc":"2.0","method":"query","params":{},"id":"a"}"#;
        let envelope =
            envelope(&Bytes::from_static(good)).unwrap_or_else(|_| panic!("a good envelope"));
        assert_eq!(envelope.id, Some(Value::String("a".to_owned())));
    }

    proptest! {
        /// No bytes make the envelope, a transaction or a certificate panic.
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = envelope(&Bytes::from(body.clone()));
            let text = String::from_utf8_lossy(&body);
            let _ = transactions::signed("transaction", &text);
            let _ = transactions::certificate(Some(&text));
            let pem = format!("-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----");
            let _ = transactions::certificate(Some(&pem));
        }

        /// Nor does JSON of the right shape with arbitrary members.
        #[test]
        fn arbitrary_members_never_panic(name in ".{0,20}", text in ".{0,40}", number: i64) {
            let body = serde_json::json!({ "jsonrpc": "2.0", "method": text, name: number });
            let _ = envelope(&Bytes::from(body.to_string()));
        }
    }
}
