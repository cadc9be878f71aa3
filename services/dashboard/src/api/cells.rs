//! Lines of a CSV file that spreadsheets open without harm.
//!
//! What stands in a cell came from outside, and a spreadsheet takes a cell that begins with `=` and a few others for a
//! formula. So an apostrophe goes before such a text, and before one that begins with an apostrophe itself: who reads the
//! file takes one apostrophe away where a text begins with one, and has what was stored. Some spreadsheets also take `;`
//! or a tab for the end of a cell, whatever the quotes say, and each of them a line's end; so the same goes for what
//! follows one of these within a text.

use std::{borrow::Cow, fmt::Display};

/// One cell of a line.
pub(crate) enum Cell<'r> {
    /// What came from outside, or a word.
    Text(&'r str),
    /// A number, a time, an address: what this program wrote itself.
    Own(String),
    /// Nothing; in JSON null.
    Empty,
}

/// Appends one line.
pub(crate) fn write_line<'r>(
    cells: impl IntoIterator<Item = Cell<'r>>,
    body: &mut Vec<u8>,
) -> Result<(), csv::Error> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .buffer_capacity(1 << 10)
        .from_writer(body);
    for cell in cells {
        match cell {
            Cell::Text(text) => writer.write_field(harmless(text).as_bytes())?,
            Cell::Own(text) => writer.write_field(text)?,
            Cell::Empty => writer.write_field("")?,
        }
    }
    writer.write_record(None::<&[u8]>)?;
    Ok(writer.flush()?)
}

/// The text with an apostrophe wherever a cell may begin with something that means more than itself.
fn harmless(text: &str) -> Cow<'_, str> {
    let mut changed = String::new();
    let mut kept = 0;
    let mut may_begin = true;
    for (place, character) in text.char_indices() {
        if may_begin && means_more(character) {
            changed.push_str(text.get(kept..place).unwrap_or_default());
            changed.push('\'');
            kept = place;
        }
        may_begin = matches!(character, ';' | '\t' | '\r' | '\n');
    }
    if changed.is_empty() {
        return Cow::Borrowed(text);
    }
    changed.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(changed)
}

/// Whether a spreadsheet may take a cell that begins with it for something else than text. The wide ones are those of
/// Chinese and Japanese keyboards.
const fn means_more(character: char) -> bool {
    matches!(
        character,
        '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '"' | '\'' | '＝' | '＋' | '－' | '＠'
    )
}

impl<'r> From<&'r str> for Cell<'r> {
    fn from(text: &'r str) -> Self {
        Self::Text(text)
    }
}

/// Of what this program writes itself.
pub(crate) fn own<'r>(value: impl Display) -> Cell<'r> {
    Cell::Own(value.to_string())
}

/// What may be absent.
pub(crate) fn optional<'r, T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'r>) -> Cell<'r> {
    value.map_or(Cell::Empty, cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader of the file does.
    fn restored(text: &str) -> String {
        let mut restored = String::new();
        let mut may_begin = true;
        for character in text.chars() {
            let is_ours = may_begin && character == '\'';
            may_begin = matches!(character, ';' | '\t' | '\r' | '\n');
            if !is_ours {
                restored.push(character);
            }
        }
        restored
    }

    fn read_back(text: &str) -> String {
        let mut body = Vec::new();
        write_line([own(1), text.into(), Cell::Empty], &mut body).unwrap();
        assert!(body.ends_with(b"\r\n"));
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&body[..]);
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!((records.len(), records[0].len()), (1, 3), "{text:?}");
        assert_eq!((&records[0][0], &records[0][2]), ("1", ""));
        records[0][1].to_owned()
    }

    #[test]
    fn no_cell_begins_a_formula_and_each_comes_back() {
        let beginnings = ["", "a", "a;", "a\t", "a\r", "a\n", "a;;", ";\t", "'", "''", " "];
        let ends = [
            "",
            "=1+1",
            "+1",
            "-1",
            "@x",
            "\t=1",
            "\r=1",
            "\n=1",
            "＝1",
            "＋1",
            "－1",
            "＠1",
            "'x",
            "\"=1",
            "x",
            "ü, \"ö\"",
            ";",
        ];
        for text in beginnings
            .iter()
            .flat_map(|a| ends.iter().map(move |b| format!("{a}{b}")))
        {
            let read = read_back(&text);
            assert_eq!(restored(&read), text, "{read:?}");
            for cell in read.split([';', '\t', '\r', '\n']) {
                assert!(
                    !cell.starts_with(['=', '+', '-', '@', '"', '＝', '＋', '－', '＠']),
                    "{text:?}: {cell:?}"
                );
            }
            assert!(!read.starts_with(['\t', '\r', '\n']), "{text:?}");
        }
    }

    #[test]
    fn ordinary_texts_stay_as_they_are() {
        for text in [
            "jürgen+news@example.org, a@b.example",
            "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101",
            "<b>a-b=c</b>",
            "it's",
        ] {
            assert_eq!(read_back(text), text);
        }
    }

    #[test]
    fn own_numbers_are_not_touched() {
        let mut body = Vec::new();
        write_line([own(-73.98), own("::1"), optional(None::<i64>, own)], &mut body).unwrap();
        assert_eq!(body, b"-73.98,::1,\r\n");
    }
}
