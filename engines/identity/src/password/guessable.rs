//! Passwords that whoever guesses tries first (NIST SP 800-63B, 5.1.1.2; OWASP ASVS 5.0, 6.2.4, 6.2.11, 6.2.12): the usual ones, those made
//! of what everybody knows about the account, and, where a list is given, those that leaked elsewhere.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::token::hex;

/// The 5,000 most used ones of 10 characters or more, in lower case and in the order of their bytes.
static USUAL: LazyLock<Vec<&str>> = LazyLock::new(|| include_str!("usual.txt").lines().collect());

/// A part that comes again and again up to this length is one character to whoever guesses.
const PERIOD_MAX: usize = 3;
/// Shorter words are in too many passwords by chance.
const WORD_CHARACTERS_MIN: usize = 4;
/// What is left of a password beside words that everybody knows has so many letters at least.
const OTHER_LETTERS_MIN: usize = 4;

/// Why a password would be guessed soon; `known` is what everybody knows of the account: its address, the host of the server.
pub(super) fn reason(password: &str, known: &[&str]) -> Option<&'static str> {
    let lower = password.to_lowercase();
    let stem = lower.trim_end_matches(|it: char| !it.is_alphanumeric());
    if [&*lower, stem].iter().any(|it| USUAL.binary_search(it).is_ok()) {
        return Some("is one of the most used ones");
    }
    if repeats(&lower) {
        return Some("is a few characters again and again");
    }
    if is_made_of(&lower, known) {
        return Some("is made of the address or the name of the server");
    }
    None
}

fn repeats(password: &str) -> bool {
    let letters: Vec<char> = password.chars().collect();
    (1..=PERIOD_MAX).any(|period| {
        letters.len() > period
            && letters.iter().zip(&letters[period..]).all(|(one, next)| one == next)
    })
}

fn is_made_of(password: &str, known: &[&str]) -> bool {
    let mut rest = password.to_owned();
    for text in known {
        let text = text.to_lowercase();
        let parts = text.split(|it: char| !it.is_alphanumeric());
        let mut words: Vec<&str> =
            parts.chain([&*text]).filter(|it| it.chars().count() >= WORD_CHARACTERS_MIN).collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        for word in words {
            rest = rest.replace(word, " ");
        }
    }
    rest != password && rest.chars().filter(|it| it.is_alphabetic()).count() < OTHER_LETTERS_MIN
}

/// Passwords that leaked elsewhere, by the SHA-1 of each in ascending order, as Have I Been Pwned gives them: one file with a line
/// `HASH` or `HASH:COUNT` for each, or a folder with a file for each five first digits that has the others. Nobody is asked over the network.
#[derive(Debug)]
pub(crate) struct Leaked(PathBuf);

const DIGITS: usize = 40;
const PREFIX: usize = 5;
/// The longest line: a hash, a colon, a count, and how the line ends.
const LINE_MAX: usize = 64;

impl Leaked {
    /// An error where the first hash is none, or comes after the last.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let leaked = Self(path.to_owned());
        let (file, digits) = leaked.part("00000")?;
        let length = file.metadata()?.len();
        let first = line_from(&file, 0)?.ok_or_else(|| damaged("is empty"))?;
        let near_end = length.saturating_sub(LINE_MAX as u64);
        let last = line_from(&file, near_end)?.unwrap_or_else(|| first.clone());
        if first.key(digits)? > last.key(digits)? {
            return Err(damaged("is not in ascending order"));
        }
        Ok(leaked)
    }

    /// Reads some forty places of the disk.
    pub(super) fn holds(&self, password: &str) -> io::Result<bool> {
        let hash = sha1(password);
        let (file, digits) = self.part(&hash[..PREFIX].to_uppercase())?;
        holds(&file, &hash[DIGITS - digits..])
    }

    /// Where hashes stand that begin so, and how many of their digits a line has.
    fn part(&self, prefix: &str) -> io::Result<(File, usize)> {
        if !self.0.is_dir() {
            return Ok((File::open(&self.0)?, DIGITS));
        }
        let named = File::open(self.0.join(format!("{prefix}.txt")));
        let file = named.or_else(|_| File::open(self.0.join(prefix)))?;
        Ok((file, DIGITS - PREFIX))
    }
}

fn sha1(password: &str) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()).as_ref())
}

fn holds(file: &File, wanted: &str) -> io::Result<bool> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(line) = line_from(file, middle)?.filter(|line| line.begin < high) else {
            high = middle;
            continue;
        };
        match line.key(wanted.len())?.as_str().cmp(wanted) {
            Ordering::Equal => return Ok(true),
            Ordering::Less => low = line.begin + line.text.len() as u64,
            Ordering::Greater => high = middle,
        }
    }
    Ok(false)
}

#[derive(Clone)]
struct Line {
    begin: u64,
    text: Vec<u8>,
}

impl Line {
    fn key(&self, digits: usize) -> io::Result<String> {
        let (key, after) = self.text.split_at_checked(digits).unwrap_or((&self.text[..], &[]));
        if key.len() < digits || !key.iter().all(u8::is_ascii_hexdigit) {
            return Err(damaged("has a line that is no SHA-1 in hexadecimal digits"));
        }
        if after.first().is_some_and(|byte| !matches!(byte, b':' | b'\r' | b'\n')) {
            return Err(damaged("has a line that goes on after its SHA-1"));
        }
        Ok(key.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
    }
}

/// The first line that begins at a place or after it.
fn line_from(file: &File, at: u64) -> io::Result<Option<Line>> {
    let mut held = [0; 2 * LINE_MAX];
    let from = at.saturating_sub(1);
    let length = fill(file, &mut held, from)?;
    let held = &held[..length];
    let skipped = match at {
        0 => 0,
        _ => match held.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if length < 2 * LINE_MAX => return Ok(None),
            None => return Err(damaged("has a line that is too long")),
        },
    };
    let rest = &held[skipped..];
    let text = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => &rest[..=end],
        None if rest.len() <= LINE_MAX => rest,
        None => return Err(damaged("has a line that is too long")),
    };
    Ok((!text.is_empty()).then(|| Line { begin: from + skipped as u64, text: text.to_vec() }))
}

fn fill(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the list {why}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_usual_ones_are_in_order_and_long_enough() {
        assert!(USUAL.len() >= 3_000 && USUAL.is_sorted());
        assert!(USUAL.iter().all(|it| it.chars().count() >= super::super::OF_ACCOUNT.0));
        assert!(USUAL.iter().all(|it| it.to_lowercase() == *it));
    }

    #[test]
    fn what_is_guessed_first_is_refused_and_what_is_long_and_strange_is_not() {
        let known = ["mina.park@example.org", "shop.madang-market.kr", "madang"];
        for weak in [
            "password123",
            "Password123!!",
            "1q2w3e4r5t",
            "aaaaaaaaaaaa",
            "abcabcabcabc",
            "가나가나가나가나가나",
            "mina.park@example.org",
            "Mina-Park-2026",
            "madangmadang1",
            "Madang-Market!",
        ] {
            assert!(reason(weak, &known).is_some(), "{weak}");
        }
        for strong in [
            "correct horse battery",
            "a long password of mina",
            "madang has nine rooms",
            "무궁화꽃이피었습니다만",
            "q8Zt-0vLk-33",
        ] {
            assert_eq!(reason(strong, &known), None, "{strong}");
        }
    }

    #[test]
    fn each_of_a_list_is_found_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<String> = (0..500).map(|number| format!("leaked password {number}")).collect();
        let mut hashes: Vec<String> = all.iter().map(|it| sha1(it)).collect();
        hashes.sort();
        for (name, line_end, counted) in
            [("a", "\n", true), ("b", "\r\n", true), ("c", "\n", false)]
        {
            let line = |(at, hash): (usize, &String)| {
                if counted { format!("{hash}:{}", at * at * at) } else { hash.to_uppercase() }
            };
            let lines = hashes.iter().enumerate().map(line);
            let path = folder.path().join(name);
            fs::write(&path, lines.collect::<Vec<_>>().join(line_end)).unwrap();
            let leaked = Leaked::open(&path).unwrap();
            for password in &all {
                assert!(leaked.holds(password).unwrap(), "{name}: {password}");
            }
            for number in 0..500 {
                assert!(!leaked.holds(&format!("nobody's {number}")).unwrap());
            }
        }
    }

    #[test]
    fn a_folder_has_a_file_for_each_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let hash = sha1("a leaked one").to_uppercase();
        let other = "0".repeat(35);
        fs::write(folder.path().join("00000.txt"), format!("{other}:3\r\n")).unwrap();
        let text = format!("{other}:1\r\n{}:2\r\n", &hash[PREFIX..]);
        fs::write(folder.path().join(format!("{}.txt", &hash[..PREFIX])), text).unwrap();
        let leaked = Leaked::open(folder.path()).unwrap();
        assert!(leaked.holds("a leaked one").unwrap());
        let missing = leaked.holds("of another beginning").unwrap_err();
        assert_eq!(
            missing.kind(),
            io::ErrorKind::NotFound,
            "a part that is not there says nothing"
        );
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        assert_eq!(Leaked::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let (low, high) = ("0".repeat(40), "F".repeat(40));
        for text in [
            String::new(),
            "password123\n".into(),
            format!("{high}:1\n{low}:1\n"),
            format!("{low}{high}\n"),
            "0".repeat(10_000),
        ] {
            fs::write(&path, &text).unwrap();
            assert!(Leaked::open(&path).is_err(), "{text}");
        }
    }
}
