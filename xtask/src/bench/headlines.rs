//! The goals, and what was found: the table that closes a run.

use std::sync::{Mutex, PoisonError};

use super::report::{Cell, Report, Table};

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure beside its goal.
#[derive(Debug)]
struct Headline {
    what: String,
    goal: Goal,
    found: Cell,
}

/// All of a run.
#[derive(Debug, Default)]
pub(super) struct Headlines(Mutex<Vec<Headline>>);

impl Headlines {
    /// Notes a figure. Times count in milliseconds, memory in MiB, shares in per cent.
    pub(super) fn note(&self, what: impl Into<String>, goal: Goal, found: Cell) {
        let headline = Headline {
            what: what.into(),
            goal,
            found,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(headline);
    }

    /// All that was noted so far; nothing, if nothing was.
    pub(super) fn report(&self) -> Option<Report> {
        let headlines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<Vec<Cell>> = headlines.iter().map(Headline::row).collect();
        (!rows.is_empty()).then(|| Report {
            title: "the goals",
            notes: Vec::new(),
            tables: vec![Table {
                columns: vec!["", "found", "goal", "reached"],
                rows,
            }],
        })
    }
}

impl Headline {
    fn row(&self) -> Vec<Cell> {
        let like_found = |goal: f64| match &self.found {
            Cell::Time(_) => format!("{goal} ms"),
            Cell::Bytes(_) => format!("{goal} MiB"),
            Cell::PerSecond(_) => format!("{goal}/s"),
            Cell::Share(_) => format!("{goal} %"),
            _ => goal.to_string(),
        };
        let found = value(&self.found);
        let (goal, reached) = match self.goal {
            Goal::AtLeast(goal) => (
                format!("≥ {}", like_found(goal)),
                found.map(|found| found >= goal),
            ),
            Goal::AtMost(goal) => (
                format!("≤ {}", like_found(goal)),
                found.map(|found| found <= goal),
            ),
        };
        let reached = match reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        vec![
            Cell::Text(self.what.clone()),
            self.found.clone(),
            Cell::Text(goal),
            reached.into(),
        ]
    }
}

/// In the unit of its goal.
fn value(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Count(count) => Some(f64::from(u32::try_from(*count).ok()?)),
        Cell::Time(time) => Some(time.as_secs_f64() * 1e3),
        Cell::Bytes(bytes) => Some(f64::from(u32::try_from(bytes / 1_024).ok()?) / 1_024.0),
        Cell::PerSecond(number) | Cell::Times(number) => Some(*number),
        Cell::Share(share) => Some(share * 100.0),
        Cell::Text(_) | Cell::None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reached(goal: Goal, found: Cell) -> String {
        let headlines = Headlines::default();
        headlines.note("it", goal, found);
        let report = headlines.report().unwrap();
        report.tables[0].rows[0][3].to_string()
    }

    #[test]
    fn goals_count_in_the_unit_of_what_was_found() {
        let memory = |mebibytes: u64| Cell::Bytes(mebibytes << 20);
        assert_eq!(reached(Goal::AtMost(60.0), memory(60)), "yes");
        assert_eq!(reached(Goal::AtMost(60.0), memory(61)), "no");
        let time = Cell::Time(Duration::from_millis(251));
        assert_eq!(reached(Goal::AtMost(250.0), time.clone()), "no");
        assert_eq!(reached(Goal::AtMost(251.0), time), "yes");
        assert_eq!(reached(Goal::AtLeast(0.5), Cell::Times(0.49)), "no");
        assert_eq!(reached(Goal::AtLeast(0.5), Cell::Times(0.5)), "yes");
        assert_eq!(reached(Goal::AtLeast(0.5), Cell::None), "unknown");
        assert!(Headlines::default().report().is_none());
    }
}
