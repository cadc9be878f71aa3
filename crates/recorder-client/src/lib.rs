//! How services reach the recorders: their settings, one channel over all of them, and what each call carries.
//!
//! Whoever uses it can reach recorders and nothing else: it knows no database.

mod channel;
mod settings;
mod users;

use opentelemetry_http::HeaderInjector;
use recorder_api::{MAX_MESSAGE_BYTES, v1::recorder_client::RecorderClient};
use tonic::{
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::Channel,
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use crate::{
    channel::{NoRecorderUrl, RecorderUrl, channel},
    settings::{RECORDER_TOKEN, RECORDER_URL, RecorderSettings, TOKEN_OF_USERS, URL_OF_USERS},
    users::{CallError, Erased, Subject, Users},
};

/// The recorders' client on `channel`.
#[must_use]
pub fn client(channel: Channel) -> RecorderClient<Channel> {
    RecorderClient::new(channel)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// What a call carries: who it is from, and `span`'s context.
#[must_use]
pub fn metadata(token: Option<&MetadataValue<Ascii>>, span: &tracing::Span) -> MetadataMap {
    let mut headers = http::HeaderMap::new();
    let context = span.context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut HeaderInjector(&mut headers));
    });
    let mut metadata = MetadataMap::from_headers(headers);
    if let Some(token) = token {
        metadata.insert("authorization", token.clone());
    }
    metadata
}
