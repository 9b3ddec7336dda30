//! A disk that loses power, fails and fills up, below a real process.

mod left;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub use left::Left;

/// The layer's source; gcc is on every machine that builds Madang.
const SOURCE: &str = include_str!("../faults/disk.c");

/// What a broken device says.
pub const EIO: i32 = 5;

/// One folder whose files go through the fault layer, in every process that is started with
/// [`Disk::environment`].
pub struct Disk {
    root: PathBuf,
    state: PathBuf,
    control: File,
    ignored: String,
}

/// Places of the numbers in the control file; `struct control` in disk.c has the same.
#[derive(Clone, Copy)]
enum Word {
    Operations,
    CutAt,
    FsyncMicros,
    WriteFails,
    WriteErrno,
    SyncFails,
    SyncErrno,
    IsLimited,
    Room,
    Failures,
}

const WORDS: u64 = 10;
const PART_BYTES: usize = 128;

impl Disk {
    /// Makes the folder `root` if it is missing. `state` is for the layer, on the same file system and not below.
    pub fn new(root: &Path, state: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        fs::create_dir_all(state.join("pins"))?;
        compile(SOURCE, &state.join("disk.so"), &["-shared", "-fPIC"])?;
        let control = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(state.join("control"))?;
        control.set_len(WORDS * 8 + 2 * PART_BYTES as u64)?;
        let (root, state) = (root.canonicalize()?, state.canonicalize()?);
        Ok(Self { root, state, control, ignored: String::new() })
    }

    /// A mutation: fsync of files whose path contains one of these does nothing and says that it did.
    #[must_use]
    pub fn ignoring_fsync_of(mut self, parts: &[&str]) -> Self {
        self.ignored = parts.iter().flat_map(|part| [*part, ","]).collect();
        self
    }

    /// What a process is started with to have this disk.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.state.join("disk.so"))),
            ("DISK_ROOT", text(&self.root)),
            ("DISK_STATE", text(&self.state)),
            ("DISK_IGNORE", self.ignored.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Lets the power go at the n-th operation from now on a path that contains `part`.
    pub fn cut_at(&self, operation: u64, part: &str) -> Result<()> {
        self.set(Word::CutAt, 0)?;
        self.set_text(0, part)?;
        self.set(Word::Operations, 0)?;
        self.set(Word::CutAt, operation)
    }

    /// Operations since [`Disk::cut_at`] on such paths.
    pub fn operations(&self) -> Result<u64> {
        self.get(Word::Operations)
    }

    pub fn never_cut(&self) -> Result<()> {
        self.set(Word::CutAt, 0)
    }

    pub fn is_cut(&self) -> bool {
        self.state.join("journal").exists()
    }

    pub fn slow_fsync(&self, micros: u64) -> Result<()> {
        self.set(Word::FsyncMicros, micros)
    }

    /// Only paths that contain `part` fail from now on.
    pub fn fail_only(&self, part: &str) -> Result<()> {
        self.set_text(1, part)
    }

    /// Makes the n-th write from now on fail.
    pub fn fail_write(&self, number: u64, errno: i32) -> Result<()> {
        self.set(Word::WriteErrno, u64::try_from(errno)?)?;
        self.set(Word::WriteFails, number)
    }

    /// Makes the n-th fsync from now on fail.
    pub fn fail_fsync(&self, number: u64, errno: i32) -> Result<()> {
        self.set(Word::SyncErrno, u64::try_from(errno)?)?;
        self.set(Word::SyncFails, number)
    }

    /// Only so many more bytes fit.
    pub fn limit_room(&self, bytes: u64) -> Result<()> {
        self.set(Word::Room, bytes)?;
        self.set(Word::IsLimited, 1)
    }

    pub fn make_room(&self) -> Result<()> {
        self.set(Word::IsLimited, 0)
    }

    /// How many operations were made to fail so far.
    pub fn failures(&self) -> Result<u64> {
        self.get(Word::Failures)
    }

    /// Puts the folder into a state that the cut can have left, chosen by the seed: what was not synced is gone,
    /// or partly there.
    pub fn restore(&self, seed: u64) -> Result<Left> {
        self.never_cut()?;
        left::restore(&self.root, &self.state, Some(seed))
    }

    /// Starts a process; one time in four the power goes once more within its first `operations`, and it is started again
    /// on what that left.
    pub fn start_again<T>(
        &self,
        dice: &mut Dice,
        operations: u64,
        start: impl Fn() -> Result<T>,
    ) -> Result<(T, Option<Left>)> {
        if dice.below(4) != 0 {
            return Ok((start()?, None));
        }
        self.cut_at(1 + dice.below(operations), "")?;
        match start() {
            Ok(started) => {
                self.never_cut()?;
                if !self.is_cut() {
                    return Ok((started, None));
                }
                drop(started);
            }
            Err(error) => ensure!(self.is_cut(), "{error:#}"),
        }
        let left = self.restore(dice.below(u64::MAX))?;
        Ok((start()?, Some(left)))
    }

    /// Puts the folder into the state with nothing in it that was not synced.
    pub fn restore_bare(&self) -> Result<Left> {
        self.never_cut()?;
        left::restore(&self.root, &self.state, None)
    }

    fn set(&self, word: Word, value: u64) -> Result<()> {
        Ok(self.control.write_all_at(&value.to_ne_bytes(), word as u64 * 8)?)
    }

    fn get(&self, word: Word) -> Result<u64> {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn set_text(&self, number: usize, text: &str) -> Result<()> {
        ensure!(text.len() < PART_BYTES, "{text} is too long");
        let mut bytes = [0; PART_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(self.control.write_all_at(&bytes, WORDS * 8 + (number * PART_BYTES) as u64)?)
    }
}

fn compile(source: &str, target: &Path, options: &[&str]) -> Result<()> {
    let file = target.with_extension("c");
    fs::write(&file, source)?;
    let output = Command::new("gcc")
        .args(["-std=gnu17", "-O1", "-Wall", "-Wextra", "-o"])
        .arg(target)
        .args(options)
        .arg(&file)
        .args(["-ldl", "-lpthread"])
        .output()
        .context("run gcc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "gcc: {said}");
    Ok(())
}

/// Chance that is the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}
