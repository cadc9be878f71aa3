//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// How long anything may take before its test fails: far longer than it ever should, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Asks again and again until `probe` answers; panics, naming `what`, once [`PATIENCE`] has run out.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain until {what}"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
