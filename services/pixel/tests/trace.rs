//! The recorder sees each batch's span as the parent of its own work.

#![allow(clippy::unwrap_used, reason = "a test says by that what it needs")]

mod support;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use support::{
    peer::Peer,
    pixel::{get, path_of, start},
};
use tempfile::TempDir;
use tracing_subscriber::layer::SubscriberExt;

#[tokio::test]
async fn a_batch_has_one_span_whose_context_travels_along() {
    let spans = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let only_ours = tracing_subscriber::filter::Targets::new().with_target("pixel", tracing::Level::INFO);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(only_ours).with(layer))
        .unwrap();

    let peer = Peer::new();
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let folder = TempDir::new().unwrap();
    let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
    get(pixel.public, &path_of("a")).await.assert_gif("a hit");
    peer.wait_for_facts(1).await;
    pixel.stop().await.unwrap();

    let finished = spans.get_finished_spans().unwrap();
    let names: Vec<_> = finished.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["forward batch"], "one for the batch, none for the pixel");
    let context = &finished[0].span_context;
    let expected = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    assert_eq!(peer.seen()[0].traceparent.as_deref(), Some(expected.as_str()));
}
