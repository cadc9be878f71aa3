//! What is counted of webhooks. Every target has its series, at zero, from the start.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter},
};

use super::send::FailureKind;

/// What ends an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The target has it.
    Delivered,
    /// There was nothing to tell any more: the open was withdrawn, or its email is gone.
    Void,
    /// It was given up, and waits for somebody to have it sent again.
    SetAside,
    /// It was kept for as long as events are kept.
    Removed,
}

impl End {
    const ALL: [Self; 4] = [Self::Delivered, Self::Void, Self::SetAside, Self::Removed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Void => "void",
            Self::SetAside => "set_aside",
            Self::Removed => "removed",
        }
    }
}

/// The events of one target, as they are in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Standing {
    pub(super) pending: u64,
    pub(super) oldest_pending_seconds: f64,
    pub(super) set_aside: u64,
}

/// The instruments.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Of the targets: what is in the database of others, or was, has no series.
    names: Vec<String>,
    requests: Counter<u64>,
    events: Counter<u64>,
    pending: Gauge<u64>,
    oldest_pending: Gauge<f64>,
    set_aside: Gauge<u64>,
}

impl Metrics {
    pub(super) fn new(meter: &Meter, targets: &[&str]) -> Self {
        let counter = |name, unit, description| {
            let builder = meter.u64_counter(name).with_unit(unit);
            builder.with_description(description).build()
        };
        let gauge = |name, description| {
            let builder = meter.u64_gauge(name).with_unit("{event}");
            builder.with_description(description).build()
        };
        let metrics = Self {
            names: targets.iter().map(|name| (*name).to_owned()).collect(),
            requests: counter(
                "email_tracker.recorder.webhook.requests",
                "{request}",
                "Requests to webhooks, by how they ended",
            ),
            events: counter(
                "email_tracker.recorder.webhook.events",
                "{event}",
                "Events of webhooks that came to an end, by which",
            ),
            pending: gauge(
                "email_tracker.recorder.webhook.events.pending",
                "Events that the webhook has not been told yet, by all recorders together",
            ),
            oldest_pending: meter
                .f64_gauge("email_tracker.recorder.webhook.oldest.pending.age")
                .with_unit("s")
                .with_description("Age of the oldest of these events")
                .build(),
            set_aside: gauge(
                "email_tracker.recorder.webhook.events.set_aside",
                "Events that were given up and wait to be sent again by hand",
            ),
        };
        for target in targets {
            metrics.requests.add(0, &labels(target, "delivered"));
            for kind in FailureKind::ALL {
                metrics.requests.add(0, &labels(target, kind.as_str()));
            }
            for end in End::ALL {
                metrics.ended(target, end, 0);
            }
            metrics.stand(target, Standing::default());
        }
        metrics
    }

    /// The names of the targets.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// A request ended, well or with a failure.
    pub(super) fn requested(&self, target: &str, failure: Option<FailureKind>) {
        let outcome = failure.map_or("delivered", FailureKind::as_str);
        self.requests.add(1, &labels(target, outcome));
    }

    /// So many events ended.
    pub(super) fn ended(&self, target: &str, end: End, count: u64) {
        if self.names.iter().any(|name| name == target) {
            self.events.add(count, &labels(target, end.as_str()));
        }
    }

    /// What there is of events now.
    pub(super) fn stand(&self, target: &str, standing: Standing) {
        let label = [KeyValue::new("target", target.to_owned())];
        self.pending.record(standing.pending, &label);
        self.oldest_pending
            .record(standing.oldest_pending_seconds, &label);
        self.set_aside.record(standing.set_aside, &label);
    }
}

fn labels(target: &str, outcome: &'static str) -> [KeyValue; 2] {
    [
        KeyValue::new("target", target.to_owned()),
        KeyValue::new("outcome", outcome),
    ]
}
