//! What an article is found by, the same on every database: words; pairs of neighbouring syllables, which find a piece of a word
//! of Korean, Chinese or Japanese; and threes of initial consonants (`ㅁㄷ` finds `마당`).
//!
//! Terms only narrow down: that a piece of a word stands there as a whole is seen in `article_text`. So what is found is what a
//! reader would find who looks for every piece of the question in the text, and a test holds the two against each other.

use std::collections::HashMap;

use base::OrganisationId;
use relational::{Tx, Value, params};
use unicode_normalization::UnicodeNormalization;

use crate::Result;
use crate::article::ArticleId;

/// The texts of an article, by how much a word in them counts.
pub(crate) struct Fields<'a> {
    pub title: &'a str,
    pub tags: &'a str,
    pub description: &'a str,
    pub body: &'a str,
}

/// Letters of a word that count.
const WORD_CHARACTERS_MAX: usize = 40;
/// Characters of a question; what follows is not looked for.
const QUESTION_CHARACTERS_MAX: usize = 200;
/// Terms that one question looks up; the pieces of words are compared as a whole all the same.
const LOOKED_UP_MAX: usize = 24;
/// Rows of one statement.
const ROWS_AT_ONCE: usize = 50;

/// The initial consonants of Hangul syllables in their order (Unicode 15, section 3.12).
const INITIALS: [char; 19] = [
    'ㄱ', 'ㄲ', 'ㄴ', 'ㄷ', 'ㄸ', 'ㄹ', 'ㅁ', 'ㅂ', 'ㅃ', 'ㅅ', 'ㅆ', 'ㅇ', 'ㅈ', 'ㅉ', 'ㅊ', 'ㅋ',
    'ㅌ', 'ㅍ', 'ㅎ',
];
const FIRST_SYLLABLE: u32 = 0xAC00;
const LAST_SYLLABLE: u32 = 0xD7A3;
const SYLLABLES_PER_INITIAL: u32 = 588;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Letters and digits of scripts that put spaces between words.
    Word,
    /// Syllables and ideographs.
    Syllables,
    /// Hangul consonants alone.
    Initials,
}

/// A stretch of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    kind: Kind,
    text: Vec<char>,
}

/// A text in the form in which texts are compared.
fn normal(text: &str) -> impl Iterator<Item = char> {
    text.nfc()
        .map(|letter| match letter {
            // Full-width forms of ASCII.
            '\u{FF01}'..='\u{FF5E}' => char::from_u32(u32::from(letter) - 0xFEE0).unwrap_or(letter),
            letter => letter,
        })
        .flat_map(char::to_lowercase)
        .flat_map(|letter| {
            let (first, second) = parted(letter);
            [Some(first), second].into_iter().flatten()
        })
}

/// A keyboard joins two consonants that follow each other into one sign.
fn parted(letter: char) -> (char, Option<char>) {
    let (first, second) = match letter {
        'ㄳ' => ('ㄱ', 'ㅅ'),
        'ㄵ' => ('ㄴ', 'ㅈ'),
        'ㄶ' => ('ㄴ', 'ㅎ'),
        'ㄺ' => ('ㄹ', 'ㄱ'),
        'ㄻ' => ('ㄹ', 'ㅁ'),
        'ㄼ' => ('ㄹ', 'ㅂ'),
        'ㄽ' => ('ㄹ', 'ㅅ'),
        'ㄾ' => ('ㄹ', 'ㅌ'),
        'ㄿ' => ('ㄹ', 'ㅍ'),
        'ㅀ' => ('ㄹ', 'ㅎ'),
        'ㅄ' => ('ㅂ', 'ㅅ'),
        letter => return (letter, None),
    };
    (first, Some(second))
}

fn kind_of(letter: char) -> Option<Kind> {
    match letter {
        'ㄱ'..='ㅎ' => Some(Kind::Initials),
        '\u{AC00}'..='\u{D7A3}'
        | '\u{3040}'..='\u{30FF}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}' => Some(Kind::Syllables),
        letter if letter.is_alphanumeric() => Some(Kind::Word),
        _ => None,
    }
}

fn runs(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut last = None;
    for letter in normal(text) {
        let kind = kind_of(letter);
        match (kind, runs.last_mut()) {
            (Some(kind), Some(run)) if last == Some(kind) => run.text.push(letter),
            (Some(kind), _) => runs.push(Run { kind, text: vec![letter] }),
            (None, _) => {}
        }
        last = kind;
    }
    for run in &mut runs {
        if run.kind == Kind::Word {
            run.text.truncate(WORD_CHARACTERS_MAX);
        }
    }
    runs
}

impl Run {
    /// The initial consonants of its syllables; of other signs there are none, and they end a stretch.
    fn initials(&self) -> Vec<Vec<char>> {
        if self.kind == Kind::Word {
            return Vec::new();
        }
        let of = |letter: &char| match (self.kind, u32::from(*letter)) {
            (Kind::Initials, _) => Some(*letter),
            (_, code @ FIRST_SYLLABLE..=LAST_SYLLABLE) => {
                let place = (code - FIRST_SYLLABLE) / SYLLABLES_PER_INITIAL;
                Some(INITIALS[place as usize])
            }
            _ => None,
        };
        let letters: Vec<Option<char>> = self.text.iter().map(of).collect();
        let stretches = letters.split(Option::is_none);
        let whole = stretches.map(|stretch| stretch.iter().flatten().copied().collect::<Vec<_>>());
        whole.filter(|stretch| !stretch.is_empty()).collect()
    }
}

/// `letters` and what follows it in a run, `size` at most: every piece is the beginning of one of them.
fn pieces(mark: char, letters: &[char], size: usize) -> impl Iterator<Item = String> {
    (0..letters.len()).map(move |from| {
        let to = letters.len().min(from + size);
        std::iter::once(mark).chain(letters[from..to].iter().copied()).collect()
    })
}

const WORD: char = 'w';
const PAIR: char = 'p';
const THREE: char = 'i';

/// Writes what a published article is found by.
pub(crate) async fn put(
    tx: &mut Tx,
    (organisation, article): (OrganisationId, ArticleId),
    fields: &Fields<'_>,
    terms_max: usize,
) -> Result<()> {
    let found_by = FoundBy::of(fields, terms_max);
    let sql =
        "INSERT INTO article_text (organisation, article, words, initials) VALUES (?, ?, ?, ?)";
    let texts = params![organisation, article, found_by.words, found_by.initials];
    tx.execute(sql, texts).await?;
    for terms in found_by.terms.chunks(ROWS_AT_ONCE) {
        let rows = vec!["(?, ?, ?, ?)"; terms.len()].join(", ");
        let sql =
            format!("INSERT INTO article_term (organisation, term, article, weight) VALUES {rows}");
        let values: Vec<Value> = terms
            .iter()
            .flat_map(|(term, weight)| {
                [organisation.into(), term.into(), article.into(), Value::Int(*weight)]
            })
            .collect();
        tx.execute(&sql, &values).await?;
    }
    Ok(())
}

struct FoundBy {
    words: String,
    initials: String,
    /// With what each counts; in order, so that the same article makes the same rows.
    terms: Vec<(String, i64)>,
}

impl FoundBy {
    fn of(fields: &Fields<'_>, terms_max: usize) -> Self {
        let (mut words, mut initials) = (String::from(" "), String::from(" "));
        let mut terms: HashMap<String, i64> = HashMap::new();
        let texts = [
            (fields.title, 8, true),
            (fields.tags, 4, true),
            (fields.description, 2, false),
            (fields.body, 1, false),
        ];
        for (text, weight, has_initials) in texts {
            let mut take = |term: String| {
                if terms.len() < terms_max || terms.contains_key(&term) {
                    // The first field that has it counts the most.
                    terms.entry(term).or_insert(weight);
                }
            };
            for run in runs(text) {
                match run.kind {
                    Kind::Word => {
                        pieces(WORD, &run.text, WORD_CHARACTERS_MAX).take(1).for_each(&mut take);
                    }
                    Kind::Syllables => pieces(PAIR, &run.text, 2).for_each(&mut take),
                    Kind::Initials => {}
                }
                if run.kind != Kind::Initials {
                    words.extend(&run.text);
                    words.push(' ');
                }
                for stretch in run.initials().iter().filter(|_| has_initials) {
                    pieces(THREE, stretch, 3).for_each(&mut take);
                    initials.extend(stretch);
                    initials.push(' ');
                }
            }
        }
        let mut terms: Vec<(String, i64)> = terms.into_iter().collect();
        terms.sort_unstable();
        Self { words, initials, terms }
    }
}

/// A term that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Is(String),
    Begins(String),
}

/// What somebody looks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// All of them.
    pub terms: Vec<Wanted>,
    /// Pieces of words that must stand there as a whole.
    pub words: Vec<String>,
    /// The same of initial consonants.
    pub initials: Vec<String>,
}

impl Question {
    /// Every piece must be found: words as they are, the last of them as a beginning.
    pub(crate) fn of(text: &str) -> Self {
        let text: String = text.chars().take(QUESTION_CHARACTERS_MAX).collect();
        let runs = runs(&text);
        let mut question = Self::default();
        for (place, run) in runs.iter().enumerate() {
            question.want(run, place + 1 == runs.len());
        }
        question.terms.dedup();
        question.terms.truncate(LOOKED_UP_MAX);
        question
    }

    fn want(&mut self, run: &Run, is_last: bool) {
        let whole: String = run.text.iter().collect();
        match run.kind {
            Kind::Word => {
                let term = format!("{WORD}{whole}");
                self.terms.push(if is_last { Wanted::Begins(term) } else { Wanted::Is(term) });
                // A word that was looked up no more is seen in the text.
                let end = if is_last { "" } else { " " };
                self.words.push(format!(" {whole}{end}"));
            }
            Kind::Syllables => {
                self.look_up(PAIR, &run.text, 2);
                self.words.push(whole);
            }
            Kind::Initials => {
                self.look_up(THREE, &run.text, 3);
                self.initials.push(whole);
            }
        }
    }

    /// The pieces that are whole; a run that is shorter than one begins some.
    fn look_up(&mut self, mark: char, letters: &[char], size: usize) {
        let term =
            |letters: &[char]| std::iter::once(mark).chain(letters.iter().copied()).collect();
        if letters.len() < size {
            self.terms.push(Wanted::Begins(term(letters)));
        } else {
            self.terms.extend(letters.windows(size).map(|piece| Wanted::Is(term(piece))));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_found_by_words_pairs_and_initials() {
        let fields =
            Fields { title: "Rust로 만든 마당", tags: "", description: "", body: "글" };
        let found = FoundBy::of(&fields, 100);
        let terms: Vec<&str> = found.terms.iter().map(|(term, _)| &**term).collect();
        assert_eq!(
            terms,
            [
                "iㄷ", "iㄷ", "iㄹ", "iㅁㄷ", "iㅁㄷ", "p글", "p당", "p든", "p로", "p마당",
                "p만든", "wrust"
            ]
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
        );
        assert_eq!((&*found.words, &*found.initials), (" rust 로 만든 마당 글 ", " ㄹ ㅁㄷ ㅁㄷ "));
        assert_eq!(FoundBy::of(&fields, 2).terms.len(), 2);
    }

    #[test]
    fn a_question_is_every_piece_and_its_last_word_a_beginning() {
        let question = Question::of("ＲＵＳＴ 데이터베 ㄱㅅ go");
        let is = |text: &str| Wanted::Is(text.into());
        assert_eq!(
            question.terms,
            [
                is("wrust"),
                is("p데이"),
                is("p이터"),
                is("p터베"),
                Wanted::Begins("iㄱㅅ".into()),
                Wanted::Begins("wgo".into()),
            ]
        );
        assert_eq!(question, Question::of("rust 데이터베\u{20}ㄳ Go"));
        assert_eq!(question.initials, ["ㄱㅅ"]);
        // Typed as parts, as macOS names files.
        assert_eq!(Question::of("\u{1106}\u{1161}\u{1103}\u{1161}\u{11BC}"), Question::of("마당"));
        assert!(Question::of(" ?! ").is_empty());
    }
}
