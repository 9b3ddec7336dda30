use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Dice;

/// What a power cut left of a folder.
#[derive(Debug, Default)]
pub struct Left {
    /// The operation that did not happen any more, and on what.
    pub cut: String,
    /// Changes of files that were not synced, and those of them that are gone at least in part.
    pub changes: usize,
    pub changes_lost: usize,
    /// Names given or taken that were not synced, and those of them that are undone.
    pub names: usize,
    pub names_lost: usize,
}

/// What the layer wrote down at the cut.
#[derive(Default)]
struct Journal {
    cut: String,
    notes: String,
    known: HashMap<u64, Known>,
    changes: HashMap<u64, Vec<Change>>,
    namings: Vec<Naming>,
}

struct Known {
    size: u64,
    is_folder: bool,
}

/// Bytes of a file that changed, and what was there before from `offset` on.
struct Change {
    seq: u64,
    offset: u64,
    length: u64,
    size_before: u64,
    before: Vec<u8>,
}

/// A name in a folder that stood for `before` and stands for `after`; 0 is nothing.
struct Naming {
    seq: u64,
    folder: u64,
    before: u64,
    after: u64,
    name: String,
}

/// The folder as it is now.
#[derive(Default)]
struct Tree {
    folders: BTreeMap<u64, BTreeMap<String, u64>>,
    paths: HashMap<u64, PathBuf>,
}

const SECTOR: u64 = 512;
/// SQLite's index of its write-ahead log: a mapping that no power cut keeps.
const SHARED_MEMORY: &str = "-shm";

pub(super) fn restore(root: &Path, state: &Path, seed: Option<u64>) -> Result<Left> {
    let path = state.join("journal");
    let bytes = fs::read(&path).context("there was no cut")?;
    let mut journal = Journal::read(&mut Reader(&bytes))?;
    ensure!(journal.notes.is_empty(), "not covered by the fault layer: {}", journal.notes);
    let pins = state.join("pins");
    let mut tree = Tree::default();
    tree.scan(root)?;
    tree.check(&journal)?;
    tree.scan_pins(&pins)?;

    let mut dice = seed.map(Dice::new);
    let mut left = Left { cut: journal.cut.clone(), ..Left::default() };
    tree.undo_names(&mut journal.namings, &mut dice, &mut left)?;
    let fresh = root.with_extension("left");
    let top = fs::metadata(root)?.ino();
    tree.build(top, &fresh, &mut |ino, source| {
        let Some(mut changes) = journal.changes.remove(&ino) else { return Ok(()) };
        changes.sort_by_key(|change| change.seq);
        left.changes += changes.len();
        left.changes_lost += undo_changes(source, &changes, &mut dice)
            .with_context(|| format!("restore {}", source.display()))?;
        Ok(())
    })?;
    fs::remove_dir_all(root)?;
    fs::rename(&fresh, root)?;
    fs::remove_dir_all(&pins)?;
    fs::create_dir(&pins)?;
    fs::remove_file(&path)?;
    Ok(left)
}

/// Takes back what was not synced; the dice may leave some of it. Gives how many changes suffered.
fn undo_changes(path: &Path, changes: &[Change], dice: &mut Option<Dice>) -> Result<usize> {
    let file = File::options().read(true).write(true).open(path)?;
    let kind = dice.as_mut().map_or(0, |dice| dice.below(4));
    let mut below = |end: u64| dice.as_mut().map_or(0, |dice| dice.below(end));
    match kind {
        // Written in order up to some point, which may be in the midst of a write.
        2 => {
            let kept = usize::try_from(below(changes.len() as u64))?;
            changes[kept + 1..].iter().rev().try_for_each(|change| change.undo(&file))?;
            let torn = &changes[kept];
            let end = (torn.offset + below(torn.length + SECTOR)) / SECTOR * SECTOR;
            let end = end.clamp(torn.offset, torn.offset + torn.length);
            let part = read_at(&file, torn.offset, end - torn.offset)?;
            torn.undo(&file)?;
            file.write_all_at(&part, torn.offset)?;
            Ok(changes.len() - kept)
        }
        // Some sectors, in no order.
        3 => {
            let sectors: BTreeSet<u64> = changes
                .iter()
                .flat_map(|change| {
                    change.offset / SECTOR..=(change.offset + change.length) / SECTOR
                })
                .filter(|_| below(2) == 1)
                .collect();
            let kept = sectors.into_iter().map(|sector| sector * SECTOR);
            let kept = kept.map(|offset| Ok((offset, read_at(&file, offset, SECTOR)?)));
            let kept: Vec<(u64, Vec<u8>)> = kept.collect::<Result<_>>()?;
            changes.iter().rev().try_for_each(|change| change.undo(&file))?;
            for (offset, bytes) in kept.iter().filter(|(_, bytes)| !bytes.is_empty()) {
                file.write_all_at(bytes, *offset)?;
            }
            Ok(changes.len())
        }
        _ => {
            changes.iter().rev().try_for_each(|change| change.undo(&file))?;
            Ok(changes.len())
        }
    }
}

fn read_at(file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let length = length.min(size.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

impl Change {
    fn undo(&self, file: &File) -> Result<()> {
        file.write_all_at(&self.before, self.offset)?;
        Ok(file.set_len(self.size_before)?)
    }
}

impl Tree {
    fn scan(&mut self, folder: &Path) -> Result<()> {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().ok().context("a name that is no text")?;
            if entry.file_type()?.is_dir() {
                self.scan(&entry.path())?;
            }
            self.paths.insert(entry.ino(), entry.path());
            names.insert(name, entry.ino());
        }
        self.folders.insert(fs::metadata(folder)?.ino(), names);
        Ok(())
    }

    /// What was removed and may come back.
    fn scan_pins(&mut self, pins: &Path) -> Result<()> {
        for entry in fs::read_dir(pins)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.folders.insert(entry.ino(), BTreeMap::new());
            }
            self.paths.entry(entry.ino()).or_insert_with(|| entry.path());
        }
        Ok(())
    }

    /// Whether the layer saw everything: what went round it has another size or is unknown.
    fn check(&self, journal: &Journal) -> Result<()> {
        for (ino, path) in &self.paths {
            let Some(known) = journal.known.get(ino) else {
                bail!("{} was made behind the fault layer", path.display());
            };
            let size = fs::metadata(path)?.len();
            ensure!(
                known.is_folder || known.size == size,
                "{} has {size} bytes, the fault layer saw {}",
                path.display(),
                known.size
            );
        }
        Ok(())
    }

    /// A journalling file system writes names in their order, so some of the first may be kept.
    fn undo_names(
        &mut self,
        namings: &mut [Naming],
        dice: &mut Option<Dice>,
        left: &mut Left,
    ) -> Result<()> {
        namings.sort_by_key(|naming| naming.seq);
        let seqs: BTreeSet<u64> = namings.iter().map(|naming| naming.seq).collect();
        left.names = seqs.len();
        let kept = dice.as_mut().map_or(0, |dice| match dice.below(2) {
            0 => 0,
            _ => dice.below(seqs.len() as u64 + 1),
        });
        let kept = usize::try_from(kept)?;
        left.names_lost = seqs.len() - kept;
        let Some(first) = seqs.iter().nth(kept) else { return Ok(()) };
        for naming in namings.iter().rev().filter(|naming| naming.seq >= *first) {
            let names = self.folders.get_mut(&naming.folder).context("an unknown folder")?;
            let found = names.remove(&naming.name).unwrap_or(0);
            ensure!(found == naming.after, "{} was named behind the fault layer", naming.name);
            if naming.before != 0 {
                names.insert(naming.name.clone(), naming.before);
            }
        }
        Ok(())
    }

    /// Makes the folder anew from links to the files, each of which is put right first.
    fn build(
        &self,
        folder: u64,
        target: &Path,
        put_right: &mut impl FnMut(u64, &Path) -> Result<()>,
    ) -> Result<()> {
        fs::create_dir(target)?;
        for (name, ino) in &self.folders[&folder] {
            let to = target.join(name);
            if self.folders.contains_key(ino) {
                self.build(*ino, &to, put_right)?;
            } else if !name.ends_with(SHARED_MEMORY) {
                let source = self.paths.get(ino).with_context(|| format!("{name} is gone"))?;
                put_right(*ino, source)?;
                fs::hard_link(source, &to)?;
            }
        }
        Ok(())
    }
}

impl Journal {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut journal = Self::default();
        loop {
            match reader.take(1)?[0] {
                b'O' => journal.cut = format!("{} {}", reader.text()?, reader.text()?),
                b'U' => journal.notes = reader.text()?,
                b'K' => {
                    let ino = reader.number()?;
                    let (size, is_folder) = (reader.number()?, reader.number()? == 1);
                    journal.known.insert(ino, Known { size, is_folder });
                }
                b'W' => {
                    let (seq, ino) = (reader.number()?, reader.number()?);
                    let (offset, length) = (reader.number()?, reader.number()?);
                    let size_before = reader.number()?;
                    let saved = reader.number()?;
                    let before = reader.take(usize::try_from(saved)?)?.to_owned();
                    let change = Change { seq, offset, length, size_before, before };
                    journal.changes.entry(ino).or_default().push(change);
                }
                b'N' => journal.namings.push(Naming {
                    seq: reader.number()?,
                    folder: reader.number()?,
                    before: reader.number()?,
                    after: reader.number()?,
                    name: reader.text()?,
                }),
                b'E' => return Ok(journal),
                other => bail!("a journal entry of kind {other}"),
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("the journal is short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_ne_bytes(self.take(8)?.try_into()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::try_from(self.number()?)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
