//! Devices as CSV (RFC 4180): one line each, lists within a field parted by semicolons.

use crate::{Error, Fault, Result};

/// The columns, in the order in which they are written. Read, they may come in any order, and all but the first may be
/// missing.
pub(crate) const COLUMNS: [&str; 8] =
    ["name", "label", "latitude", "longitude", "sensors", "actuators", "tags", "group"];

/// Writes a table with its heading.
pub(crate) fn write(rows: impl Iterator<Item = [String; COLUMNS.len()]>) -> String {
    let mut text = COLUMNS.join(",");
    text.push_str("\r\n");
    for row in rows {
        let fields: Vec<String> = row.iter().map(|field| quoted(field)).collect();
        text.push_str(&fields.join(","));
        text.push_str("\r\n");
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

/// Reads a table; each row has its fields in the order of [`COLUMNS`].
pub(crate) fn read(text: &str) -> Result<Vec<[String; COLUMNS.len()]>> {
    let fault = |text: String| Error::Invalid(vec![Fault::new("/csv", text)]);
    let mut lines = rows(text).into_iter();
    let heading = lines.next().unwrap_or_default();
    let mut places = Vec::with_capacity(heading.len());
    for column in &heading {
        let name = column.trim();
        let place = COLUMNS.iter().position(|known| *known == name);
        let place = place.ok_or_else(|| {
            fault(format!("there is no column {name:?}, only {}", COLUMNS.join(", ")))
        })?;
        if places.contains(&place) {
            return Err(fault(format!("the column {name:?} is there twice")));
        }
        places.push(place);
    }
    if !places.contains(&0) {
        return Err(fault("there is no column \"name\"".into()));
    }
    let mut rows = Vec::new();
    for (index, fields) in lines.enumerate() {
        if fields.len() != places.len() {
            let (line, wanted, found) = (index + 2, places.len(), fields.len());
            return Err(fault(format!("row {line} has {found} fields, not {wanted}")));
        }
        let mut row: [String; COLUMNS.len()] = Default::default();
        for (field, place) in fields.into_iter().zip(&places) {
            row[*place] = field;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The list that a field holds.
pub(crate) fn list(field: &str) -> Vec<String> {
    field.split(';').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// Fields by line; a quoted field may hold the end of a line. Lines with nothing in them are left out.
/// The lines that are not empty, with their fields.
pub(crate) fn rows(text: &str) -> Vec<Vec<String>> {
    // Spreadsheets write a mark of the byte order.
    let text = text.trim_start_matches('\u{feff}');
    let (mut lines, mut fields, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut is_quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if is_quoted || field.is_empty() => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field)),
            '\r' if !is_quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !is_quoted => {
                fields.push(std::mem::take(&mut field));
                lines.push(std::mem::take(&mut fields));
            }
            letter => field.push(letter),
        }
    }
    fields.push(field);
    lines.push(fields);
    lines.retain(|fields| fields.iter().any(|field| !field.trim().is_empty()));
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_come_in_any_order_and_may_be_missing() {
        let text = "\u{feff}label,name\r\n\"a, \"\"b\"\"\",roof\n\n,cellar";
        let rows = read(text).unwrap();
        let short: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
        assert_eq!(short, [("roof", "a, \"b\""), ("cellar", "")]);
        assert_eq!(list(" a; b;;c "), ["a", "b", "c"]);
        for wrong in ["", "label\nx", "name,colour\na,b", "name,name\na,b", "name,label\na"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            rows in proptest::collection::vec(proptest::array::uniform8("[a,\"\n\r; 한]{0,6}"), 0..5),
        ) {
            let named: Vec<[String; 8]> = rows
                .into_iter()
                .map(|mut row| {
                    row[0].insert(0, 'n');
                    row
                })
                .collect();
            prop_assert_eq!(read(&write(named.iter().cloned())).unwrap(), named);
        }
    }
}
