//! What was found, as text and as JSON.

use std::fmt::{self, Display, Formatter, Write as _};

use serde_json::{Value, json};

use super::checks::Check;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// As it should be.
    Ok { found: String },
    /// It works, and somebody should look.
    Warning { found: String, advice: String },
    /// It does not work.
    Failed { found: String, advice: String },
    /// It could not be looked at without this: a check that failed, or a setting that is not given.
    NotChecked { needs: String },
}

impl Finding {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self::Ok { found: found.into() }
    }

    pub(super) fn warning(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Warning {
            found: found.into(),
            advice: advice.into(),
        }
    }

    pub(super) fn failed(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed {
            found: found.into(),
            advice: advice.into(),
        }
    }

    pub(super) fn needs(what: impl Into<String>) -> Self {
        Self::NotChecked { needs: what.into() }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Ok { .. } => "ok",
            Self::Warning { .. } => "warning",
            Self::Failed { .. } => "failed",
            Self::NotChecked { .. } => "not checked",
        }
    }
}

/// One check with what it looked at and found.
struct Line {
    check: Check,
    asked: String,
    finding: Finding,
}

/// All of them, in the order of the checks.
pub(super) struct Report {
    address: String,
    lines: Vec<Line>,
}

impl Report {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            lines: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, check: Check, asked: String, finding: Finding) {
        self.lines.push(Line {
            check,
            asked,
            finding,
        });
    }

    /// The failed check because of which `check` cannot be made: the first of those that it needs, or what that one lacked.
    ///
    /// A check that was not made for want of a setting keeps nobody from trying.
    pub(super) fn obstacle(&self, check: Check) -> Option<Check> {
        check
            .needs()
            .iter()
            .copied()
            .find_map(|needed| match self.finding(needed)? {
                Finding::Failed { .. } => Some(needed),
                Finding::NotChecked { .. } => self.obstacle(needed),
                Finding::Ok { .. } | Finding::Warning { .. } => None,
            })
    }

    fn finding(&self, check: Check) -> Option<&Finding> {
        let line = self.lines.iter().find(|line| line.check == check)?;
        Some(&line.finding)
    }

    /// The names of the checks that failed: since a check is made only if all that it needs is well, each is a cause.
    pub(super) fn root_causes(&self) -> Vec<&'static str> {
        let failed = |line: &&Line| matches!(line.finding, Finding::Failed { .. });
        self.lines
            .iter()
            .filter(failed)
            .map(|line| line.check.name())
            .collect()
    }

    /// The form that docs/operations.md describes.
    pub(super) fn json(&self) -> Value {
        let checks: Vec<Value> = self.lines.iter().map(Line::json).collect();
        let root_causes = self.root_causes();
        json!({
            "address": self.address,
            "ok": root_causes.is_empty(),
            "root_causes": root_causes,
            "checks": checks,
        })
    }
}

impl Line {
    fn json(&self) -> Value {
        let (found, advice, needs) = match &self.finding {
            Finding::Ok { found } => (Some(found), None, None),
            Finding::Warning { found, advice } | Finding::Failed { found, advice } => {
                (Some(found), Some(advice), None)
            }
            Finding::NotChecked { needs } => (None, None, Some(needs)),
        };
        json!({
            "name": self.check.name(),
            "outcome": self.finding.word(),
            "checked": self.asked,
            "found": found,
            "do": advice,
            "needs": needs,
        })
    }
}

impl Display for Report {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for Line {
            check,
            asked,
            finding,
        } in &self.lines
        {
            write!(text, "{:<12} {:<18} ", finding.word(), check.name())?;
            match finding {
                Finding::Ok { found } => writeln!(text, "{asked}: {found}")?,
                Finding::Warning { found, advice } | Finding::Failed { found, advice } => {
                    writeln!(text, "{asked}: {found}\n             do: {advice}")?;
                }
                Finding::NotChecked { needs } => writeln!(text, "{asked}: not checked: needs {needs}")?,
            }
        }
        // What a server says of itself may hold anything; a terminal should not take it for its own.
        let harmless = |char: char| {
            if char.is_control() && char != '\n' {
                '\u{fffd}'
            } else {
                char
            }
        };
        let text: String = text.chars().map(harmless).collect();
        formatter.write_str(&text)?;
        match self.root_causes().as_slice() {
            [] => writeln!(formatter, "\nNothing failed."),
            causes => writeln!(formatter, "\nRoot cause: {}", causes.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: &[(Check, Finding)]) -> Report {
        let mut report = Report::new("https://x".to_owned());
        for (check, finding) in findings {
            report.add(*check, "asked".to_owned(), finding.clone());
        }
        report
    }

    #[test]
    fn what_failed_first_is_named_through_what_was_not_checked() {
        let report = report(&[
            (Check::Dns, Finding::failed("none", "make one")),
            (Check::DnsA, Finding::needs("dns")),
            (Check::HttpsPort, Finding::needs("dns")),
        ]);
        assert_eq!(report.obstacle(Check::Tls), Some(Check::Dns));
        assert_eq!(report.root_causes(), ["dns"]);
        assert_eq!(report.json()["checks"][1]["needs"], "dns");
        assert!(report.to_string().ends_with("\nRoot cause: dns\n"), "{report}");
    }

    #[test]
    fn a_setting_that_is_not_given_is_no_obstacle() {
        let report = report(&[
            (Check::Dns, Finding::ok("one")),
            (Check::DnsA, Finding::needs("PUBLIC_ADDRESS")),
            (Check::HttpsPort, Finding::warning("odd", "look")),
        ]);
        assert_eq!(report.obstacle(Check::Tls), None);
        assert_eq!(report.json()["ok"], true);
    }

    #[test]
    fn a_server_cannot_write_on_the_terminal() {
        let report = report(&[(Check::Dns, Finding::ok("\u{1b}[2J"))]);
        assert!(!report.to_string().contains('\u{1b}'));
    }
}
