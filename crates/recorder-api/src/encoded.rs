//! Sending facts that are encoded already.
//!
//! A spool keeps each fact as the interface encodes it, so that it need be neither copied nor encoded again to be sent.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::{GrpcMethod, Request, Response, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{MAX_MESSAGE_BYTES, v1};

/// A [`RecordRequest`](v1::RecordRequest) whose facts are encoded: on the wire both are the same, since a message in a
/// message is its length and its bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncodedFacts {
    /// As [`v1::Fact`] each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub facts: Vec<Bytes>,
}

/// The recorders' `Record`, for facts that are encoded already.
#[derive(Clone, Debug)]
pub struct EncodedFactsClient(Grpc<Channel>);

impl EncodedFactsClient {
    /// The client on `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self(
            Grpc::new(channel)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
    }

    /// Has them recorded; answers what became of each, in their order.
    pub async fn record(
        &mut self,
        mut request: Request<EncodedFacts>,
    ) -> Result<Response<v1::RecordResponse>, Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(format!("no recorder can be called: {error}")))?;
        request
            .extensions_mut()
            .insert(GrpcMethod::new("email_tracker.recorder.v1.Recorder", "Record"));
        let path = PathAndQuery::from_static("/email_tracker.recorder.v1.Recorder/Record");
        self.0.unary(request, path, ProstCodec::default()).await
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn facts_that_are_encoded_make_the_same_message() {
        let marks = (0..3).map(|number| v1::Fact {
            fact: Some(v1::fact::Fact::Mark(v1::Mark {
                email_id: "e".repeat(number * 100),
                ..v1::Mark::default()
            })),
        });
        let plain = v1::RecordRequest {
            facts: marks.collect(),
        };
        let encoded = EncodedFacts {
            facts: plain
                .facts
                .iter()
                .map(|fact| fact.encode_to_vec().into())
                .collect(),
        };
        assert_eq!(encoded.encode_to_vec(), plain.encode_to_vec());
        assert_eq!(
            v1::RecordRequest::decode(encoded.encode_to_vec().as_slice()),
            Ok(plain)
        );
    }
}
