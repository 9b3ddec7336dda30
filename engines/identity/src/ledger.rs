//! Who was removed, in a file beside the rows and not in them: a backup of the rows brings everybody back who was there when it was
//! made, and whoever is in this list is removed again. It holds nothing but ids.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base::personal::Texts;
use base::{AccountId, OrganisationId, Timestamp};
use parking_lot::Mutex;

/// A line of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) account: AccountId,
    pub(crate) organisation: OrganisationId,
    pub(crate) at: Timestamp,
    pub(crate) texts: Texts,
}

pub(crate) struct Ledger {
    path: PathBuf,
    known: Mutex<BTreeMap<AccountId, Removed>>,
}

const HEAD: &str = "\
# Who was removed: account, organisation, microseconds since 1970, and what became of their texts. When rows come back from a
# backup, the newest copy of this file goes beside them: everybody in it is removed again. See docs/guides/identity.md.
";

impl Ledger {
    /// Reads the file, or makes an empty one. A last line that a crash cut off was never promised, and is taken away; one that only
    /// lacks its end was written by hand, and gets it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(path)?;
                HEAD.to_owned()
            }
            read => read?,
        };
        let mut whole = text.rfind('\n').map_or(0, |end| end + 1);
        if Removed::parse(&text[whole..]).is_some() {
            whole = text.len();
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
        } else if whole < text.len() {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        let mut known = BTreeMap::new();
        let numbered = text[..whole].lines().map(str::trim).enumerate();
        for (number, line) in
            numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        {
            let wrong = || {
                let why = format!("line {} names nobody who was removed", number + 1);
                io::Error::new(ErrorKind::InvalidData, why)
            };
            let removed = Removed::parse(line).ok_or_else(wrong)?;
            known.insert(removed.account, removed);
        }
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    pub(crate) fn lines(&self) -> Vec<Removed> {
        self.known.lock().values().copied().collect()
    }

    /// Adds those that are not in it; they are on disk when this returns. For a thread that may wait.
    pub(crate) fn add(&self, removed: &[Removed]) -> io::Result<()> {
        let mut known = self.known.lock();
        let is_new = |one: &&Removed| !known.contains_key(&one.account);
        let new: Vec<Removed> = removed.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let text: String = new.iter().map(Removed::line).collect();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // A part of a line would spoil the next one.
            file.set_len(length)?;
            return Err(error);
        }
        known.extend(new.into_iter().map(|removed| (removed.account, removed)));
        Ok(())
    }
}

impl Removed {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let removed = Self {
            account: words.next()?.parse().ok()?,
            organisation: words.next()?.parse().ok()?,
            at: Timestamp::from_micros(words.next()?.parse().ok()?),
            texts: match words.next()? {
                "keep" => Texts::Keep,
                "erase" => Texts::Erase,
                _ => return None,
            },
        };
        words.next().is_none().then_some(removed)
    }

    fn line(&self) -> String {
        let texts = match self.texts {
            Texts::Keep => "keep",
            Texts::Erase => "erase",
        };
        format!("{} {} {} {texts}\n", self.account, self.organisation, self.at.micros())
    }
}

fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(HEAD.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(number: u128, texts: Texts) -> Removed {
        Removed {
            account: AccountId::fixed(number),
            organisation: OrganisationId::DEFAULT,
            at: Timestamp::from_micros(1_700_000_000_000_000),
            texts,
        }
    }

    #[test]
    fn what_was_added_is_read_again_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/removed");
        let (one, other) = (removed(1, Texts::Keep), removed(2, Texts::Erase));
        let ledger = Ledger::open(&path).unwrap();
        ledger.add(&[one]).unwrap();
        ledger.add(&[one, other]).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().lines(), [one, other]);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().lines(), [one, other], "by hand");
        assert_eq!(fs::read(&path).unwrap(), whole);
        for cut in 2..other.line().len() {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let ledger = Ledger::open(&path).unwrap();
            assert_eq!(ledger.lines(), [one], "{cut} bytes are missing");
            ledger.add(&[other]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_line_that_says_something_else_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("removed");
        for line in ["somebody", "a b c keep", "00000000-0000-0000-0000-000000000001"] {
            fs::write(&path, format!("# head\n{line}\n")).unwrap();
            let error = Ledger::open(&path).err().unwrap();
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }
}
