//! One address among an email's recipients.

/// An address as people compare them: without white space around, in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The address that `text` is; `None` if it is empty, or more than one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let address = text.trim().to_lowercase();
        let is_one = !address.is_empty() && !address.contains(',');
        is_one.then_some(Self(address))
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of the comma-separated `recipients`.
    #[must_use]
    pub fn is_among(&self, recipients: &str) -> bool {
        recipients
            .to_lowercase()
            .split(',')
            .any(|address| address.trim() == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_in_any_case_and_nothing_less() {
        let address = Address::new(" Jürgen@Example.org ").unwrap();
        assert_eq!(address.as_str(), "jürgen@example.org");
        for recipients in [
            "jürgen@example.org",
            "a@b, JÜRGEN@EXAMPLE.ORG ,c@d",
            ",jürgen@example.org,",
        ] {
            assert!(address.is_among(recipients), "{recipients}");
        }
        for recipients in ["", "x-jürgen@example.org", "jürgen@example.org.uk", "jürgen"] {
            assert!(!address.is_among(recipients), "{recipients}");
        }
        for none in ["", " ", ",", "a@b,c@d"] {
            assert_eq!(Address::new(none), None, "{none:?}");
        }
    }
}
