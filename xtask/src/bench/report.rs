//! What a measurement found: tables for people, JSON for programs.

use std::{fmt, fs, path::Path, time::Duration};

use serde_json::{Map, Value, json};

/// The result of one measurement.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) title: &'static str,
    /// What has to be known to read the tables.
    pub(super) notes: Vec<String>,
    pub(super) tables: Vec<Table>,
}

/// A table; each row has a cell for each column.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A value, printed with a unit where it has one.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Text(String),
    Count(u64),
    /// In JSON as milliseconds.
    Time(Duration),
    /// In JSON as bytes.
    Bytes(u64),
    PerSecond(f64),
    Times(f64),
    /// A share of one, printed as per cent.
    Share(f64),
    /// Does not apply.
    None,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Count(count) => write!(formatter, "{}", grouped(*count)),
            Self::Time(time) if time.as_secs() >= 1 => write!(formatter, "{:.1} s", time.as_secs_f64()),
            Self::Time(time) => write!(formatter, "{:.2} ms", time.as_secs_f64() * 1e3),
            Self::Bytes(bytes) => {
                let tenths = bytes * 10 / (1 << 20);
                write!(formatter, "{}.{} MiB", tenths / 10, tenths % 10)
            }
            Self::PerSecond(rate) => write!(formatter, "{rate:.0}/s"),
            Self::Times(ratio) => write!(formatter, "{ratio:.2}"),
            Self::Share(share) => write!(formatter, "{:.2} %", share * 100.0),
            Self::None => Ok(()),
        }
    }
}

/// `1234567` as `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

impl Cell {
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(number) | Self::Bytes(number) => json!(number),
            Self::Time(time) => json!(time.as_secs_f64() * 1e3),
            Self::PerSecond(number) | Self::Times(number) | Self::Share(number) => json!(number),
            Self::None => Value::Null,
        }
    }
}

impl Report {
    /// Writes it as JSON.
    pub(super) fn save(&self, to: &Path, machine: &Value) -> anyhow::Result<()> {
        let tables: Vec<Value> = self.tables.iter().map(Table::to_json).collect();
        let report = json!({"title": self.title, "machine": machine, "notes": self.notes, "tables": tables});
        fs::write(to, format!("{report:#}\n"))?;
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "## {}\n", self.title)?;
        for note in &self.notes {
            writeln!(formatter, "- {note}")?;
        }
        for table in &self.tables {
            writeln!(formatter, "\n{table}")?;
        }
        Ok(())
    }
}

impl Table {
    fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = self.columns.iter().zip(row);
            let cells: Map<String, Value> = cells
                .map(|(column, cell)| ((*column).to_owned(), cell.to_json()))
                .collect();
            Value::Object(cells)
        });
        Value::Array(rows.collect())
    }
}

/// As Markdown, aligned.
impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<Vec<String>> = vec![self.columns.iter().map(ToString::to_string).collect()];
        for row in &self.rows {
            lines.push(row.iter().map(ToString::to_string).collect());
        }
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for (number, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(formatter, "| {cell:<width$} ")?;
                } else {
                    write!(formatter, "| {cell:>width$} ")?;
                }
            }
            writeln!(formatter, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let colon = if column == 0 { "-" } else { ":" };
                    write!(formatter, "| {}{colon} ", "-".repeat(width.saturating_sub(1)))?;
                }
                writeln!(formatter, "|")?;
            }
        }
        Ok(())
    }
}
