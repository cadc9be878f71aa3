//! The domain of Email Tracker, without I/O: what a token says, what a hit and a mark are, and which hits count.
//!
//! A pixel's GET carries a [`Token`]; together with who asked and when it becomes a [`Hit`]. A "suppress next" signal
//! becomes a [`Mark`]. Both are [`Fact`]s. What counts is the [`verdicts`] over the stored facts of one email, a pure
//! function of them; [`model`] says the same thing once more, as simply as it can be said, to test everything against.

pub mod agent;
pub mod agents;
pub mod clock;
pub mod dedup;
pub mod doctor;
pub mod facts;
pub mod model;
pub mod recipients;
pub mod slots;
pub mod token;
pub mod verdicts;

pub use clock::{Clock, MockClock, Timestamp};
pub use dedup::DedupKey;
pub use facts::{Fact, Hit, InvalidFact, Mark, shortened};
pub use token::{Token, TokenError};
pub use verdicts::{Rules, SuppressionReason, Verdict};
