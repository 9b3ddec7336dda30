//! A column of texts while its rows wait for a commit: each text once, and for each row which one it is. Most columns of
//! texts say few things again and again, so this takes a part of the memory and of the time.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayBuilder, ArrayRef, DictionaryArray, Int32Builder, StringBuilder,
};
use datafusion::arrow::datatypes::{DataType, Int32Type};

/// So many texts of a column are looked for among those before; further new ones are kept as often as they come.
const KNOWN_MAX: usize = 65_536;

pub(super) fn packed_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Texts that follow one another in a column, made once to be added often.
#[derive(Debug, Clone)]
pub struct Texts(Arc<[Box<str>]>);

impl<'a> FromIterator<&'a str> for Texts {
    fn from_iter<I: IntoIterator<Item = &'a str>>(texts: I) -> Self {
        Self(texts.into_iter().map(Box::from).collect())
    }
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells lists apart as long as they are there.
    fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

#[derive(Debug)]
pub(super) struct Words {
    /// Of each row, the place of its text.
    places: Int32Builder,
    texts: StringBuilder,
    known: HashMap<Box<str>, i32>,
    /// The text that was added last, and its place.
    last: Option<(Box<str>, i32)>,
    /// By its address, a list that was added, and the places of its texts. Kept, so that its address is no other's.
    lists: HashMap<usize, (Texts, Box<[i32]>)>,
}

impl Words {
    pub(super) fn with_room(rows: usize) -> Self {
        Self {
            places: Int32Builder::with_capacity(rows),
            // Its usual room stays with each batch, and many are of one row.
            texts: StringBuilder::with_capacity(0, 0),
            known: HashMap::new(),
            last: None,
            lists: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, text: &str, count: usize) {
        let place = match &self.last {
            Some((last, place)) if **last == *text => *place,
            _ => {
                let place = self.place(text);
                self.last = Some((text.into(), place));
                place
            }
        };
        self.places.append_value_n(place, count);
    }

    pub(super) fn push_nulls(&mut self, count: usize) {
        self.places.append_nulls(count);
    }

    pub(super) fn push_all(&mut self, texts: &Texts) {
        let address = texts.address();
        if !self.lists.contains_key(&address) {
            let places = texts.0.iter().map(|text| self.place(text)).collect();
            self.lists.insert(address, (texts.clone(), places));
        }
        self.places.append_slice(&self.lists[&address].1);
    }

    fn place(&mut self, text: &str) -> i32 {
        if let Some(place) = self.known.get(text) {
            return *place;
        }
        let place = i32::try_from(self.texts.len()).expect("a batch has fewer texts than that");
        self.texts.append_value(text);
        if self.known.len() < KNOWN_MAX {
            self.known.insert(text.into(), place);
        }
        place
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        let (places, texts) = (self.places.finish(), self.texts.finish());
        Arc::new(DictionaryArray::<Int32Type>::new(places, Arc::new(texts)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::compute::cast;

    use super::*;

    fn unpacked(words: &mut Words) -> Vec<Option<String>> {
        let texts = cast(&words.finish(), &DataType::Utf8).unwrap();
        texts.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn every_row_has_its_text() {
        let mut words = Words::with_room(1);
        let lists: Vec<Texts> =
            [["temp", "humid"], ["humid", "temp"]].into_iter().map(Texts::from_iter).collect();
        let mut expected = Vec::new();
        for round in 0..3 {
            for text in ["EWR", "", "EWR", "JFK", "가"] {
                words.push(text, round);
                expected.extend((0..round).map(|_| Some(text.to_owned())));
            }
            words.push_nulls(1);
            expected.push(None);
            for list in &lists {
                words.push_all(list);
                expected.extend(list.0.iter().map(|text| Some(text.to_string())));
            }
            let gone: Texts = [format!("list {round}")].iter().map(String::as_str).collect();
            words.push_all(&gone);
            expected.push(Some(format!("list {round}")));
        }
        assert_eq!(unpacked(&mut words), expected);
    }

    #[test]
    fn texts_without_end_are_kept_and_not_all_looked_for() {
        let mut words = Words::with_room(0);
        let texts: Vec<String> = (0..KNOWN_MAX + 10).map(|number| number.to_string()).collect();
        for text in texts.iter().chain(&texts) {
            words.push(text, 1);
        }
        assert_eq!((words.known.len(), words.texts.len()), (KNOWN_MAX, KNOWN_MAX + 20));
        let found = unpacked(&mut words);
        assert!(
            found.iter().map(Option::as_deref).eq(texts.iter().chain(&texts).map(|it| Some(&**it)))
        );
    }
}
