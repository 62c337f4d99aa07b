//! The gRPC service of `proto/obelisk.proto`.
//!
//! ```text
//! TLS connection -> tonic -> node.rs (decode -> Action -> Answer -> encode)
//!                            submission.rs (many transactions over one stream)
//!                            follow.rs (blocks and events from any height)
//! ```
//!
//! Messages, streams per connection, transactions per message and unsent answers are bounded
//! (`types::limits`). A failure becomes a status with the metadata that the proto file names.

mod follow;
mod node;
mod submission;

use std::io;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::watch;
use tonic::Code;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Server;

use crate::api;
use crate::api::Service;
use crate::api::failure::Failure;
use crate::api::grpc::node::NodeService;
use crate::api::grpc::proto::node_server::NodeServer;
use crate::network::connection::Connection;
use crate::types::limits;

/// Messages and service stubs, generated from `proto/obelisk.proto`.
pub mod proto {
    // Generated code keeps its generator's style.
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("obelisk.v1");
}

/// Serves accepted connections until `stop` turns true.
pub async fn serve(
    service: Service,
    connections: impl Stream<Item = io::Result<Connection>> + Send + Unpin + 'static,
    mut stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let node = NodeServer::new(NodeService::new(service, stop.clone()))
        .max_decoding_message_size(limits::API_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::API_MESSAGE_BYTES_MAX);
    Server::builder()
        .max_concurrent_streams(limits::CONNECTION_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .add_service(node)
        .serve_with_incoming_shutdown(connections, async move { api::stopped(&mut stop).await })
        .await
}

/// Metadata: the failure's code word.
pub const CODE_METADATA: &str = "obelisk-code";
/// Metadata: what to do.
pub const HINT_METADATA: &str = "obelisk-hint";
/// Metadata: when to come back, milliseconds.
pub const RETRY_METADATA: &str = "obelisk-retry-after-ms";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut status = Self::new(Code::from_i32(failure.code.grpc), failure.message.clone());
        let metadata = status.metadata_mut();
        metadata.insert(CODE_METADATA, AsciiMetadataValue::from_static(failure.code.word));
        // Metadata is ASCII; a hint that quotes something else is sent without those characters.
        let hint: String = failure.hint.chars().filter(|c| (' '..='~').contains(c)).collect();
        if let Ok(hint) = AsciiMetadataValue::try_from(hint) {
            metadata.insert(HINT_METADATA, hint);
        }
        if failure.retry_after_ms > 0 {
            metadata.insert(RETRY_METADATA, AsciiMetadataValue::from(failure.retry_after_ms));
        }
        status
    }
}

/// A submitting stream may have this much on its way before it waits for the node to read.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(20);
