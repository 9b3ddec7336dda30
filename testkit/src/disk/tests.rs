use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::*;

struct Place {
    folder: tempfile::TempDir,
    disk: Disk,
}

/// Names and contents below a folder.
type Found = BTreeMap<String, String>;

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(&folder.path().join("root"), &folder.path().join("state")).unwrap();
    compile(include_str!("../../faults/steps.c"), &folder.path().join("steps"), &[]).unwrap();
    Place { folder, disk }
}

impl Place {
    fn run(&self, steps: &str) -> ExitStatus {
        Command::new(self.folder.path().join("steps"))
            .args(steps.split_whitespace())
            .envs(self.disk.environment())
            .current_dir(&self.disk.root)
            .status()
            .unwrap()
    }

    /// Does the steps; then the power goes.
    fn cut_after(&self, steps: &str) {
        self.disk.cut_at(1, "/the-end").unwrap();
        let status = self.run(&format!("{steps} create:the-end"));
        assert_eq!(status.signal(), Some(9), "{status}");
        assert!(self.disk.is_cut());
    }

    fn left_after(&self, steps: &str) -> Found {
        self.cut_after(steps);
        self.disk.restore_bare().unwrap();
        self.found()
    }

    fn found(&self) -> Found {
        fn look(folder: &Path, above: &str, found: &mut Found) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{above}{}", entry.file_name().to_str().unwrap());
                if entry.path().is_dir() {
                    found.insert(format!("{name}/"), String::new());
                    look(&entry.path(), &format!("{name}/"), found);
                } else {
                    found.insert(name, fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        let mut found = Found::new();
        look(&self.disk.root, "", &mut found);
        found
    }
}

fn files(files: &[(&str, &str)]) -> Found {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

const SAVED: &str = "create:a append:a:one sync:a sync-folder:.";

#[test]
fn what_was_not_synced_is_gone() {
    let place = place();
    assert_eq!(place.left_after("create:a append:a:one"), files(&[]));
    assert_eq!(place.left_after("create:a append:a:one sync:a"), files(&[]), "no name");
    assert_eq!(place.left_after("create:a append:a:one sync-folder:."), files(&[("a", "")]));
}

#[test]
fn what_was_synced_stays() {
    let place = place();
    assert_eq!(place.left_after(SAVED), files(&[("a", "one")]));
    assert_eq!(place.left_after("append:a:two"), files(&[("a", "one")]), "over a second start");
    assert_eq!(place.left_after("append:a:two sync:a append:a:three"), files(&[("a", "onetwo")]));
}

#[test]
fn what_was_written_over_comes_back() {
    let place = place();
    place.left_after(SAVED);
    let one = files(&[("a", "one")]);
    assert_eq!(place.left_after("over:a:TWO over:a:THREE"), one);
    assert_eq!(place.left_after("cut:a:1 append:a:x"), one);
    assert_eq!(place.left_after("empty:a append:a:x"), one);
    assert_eq!(place.left_after("cut:a:1 sync:a append:a:x"), files(&[("a", "o")]));
}

#[test]
fn names_wait_for_the_sync_of_their_folder() {
    let place = place();
    place.left_after(SAVED);
    let one = files(&[("a", "one")]);
    assert_eq!(place.left_after("rename:a:b sync:b"), one);
    assert_eq!(place.left_after("link:a:b"), one);
    assert_eq!(place.left_after("unlink:a"), one);
    assert_eq!(place.left_after("create:b append:b:two sync:b rename:b:a"), one);
    assert_eq!(place.left_after("rename:a:b sync-folder:."), files(&[("b", "one")]));
    assert_eq!(place.left_after("unlink:b sync-folder:."), files(&[]));
}

#[test]
fn a_file_in_a_folder_without_a_name_is_gone() {
    let place = place();
    let inside = "mkdir:f create:f/a append:f/a:one sync:f/a sync-folder:f";
    assert_eq!(place.left_after(inside), files(&[]));
    assert_eq!(
        place.left_after(&format!("{inside} sync-folder:.")),
        files(&[("f/", ""), ("f/a", "one")])
    );
    assert_eq!(
        place.left_after("unlink:f/a rmdir:f mkdir:f"),
        files(&[("f/", ""), ("f/a", "one")])
    );
}

#[test]
fn a_torn_tail_happens_and_what_was_synced_is_never_torn() {
    let mut lengths = std::collections::BTreeSet::new();
    let place = place();
    for seed in 0..40 {
        let old = if seed == 0 { "" } else { "cut:a:0 sync:a" };
        let new = if seed == 0 { "create:a sync-folder:." } else { "" };
        place.cut_after(&format!("{old} {new} append:a:synced sync:a append:a:- fill:a:20"));
        let left = place.disk.restore(seed).unwrap();
        assert!(left.changes_lost > 0, "{left:?}");
        let text = place.found()["a"].clone();
        // The file is filled from its start, so what stood there is old, new or absent by sector.
        assert!(text.starts_with("synced") || text.starts_with("xxxxxx"), "{text:?}");
        lengths.insert(text.len());
    }
    assert!(lengths.contains(&6), "{lengths:?}");
    assert!(lengths.len() > 5, "{lengths:?}");
    assert!(lengths.iter().all(|length| *length <= 20 * 512), "{lengths:?}");
}

#[test]
fn a_mutation_ignores_the_fsyncs_of_its_files() {
    let mut place = place();
    place.disk = place.disk.ignoring_fsync_of(&["/a"]);
    let left = place.left_after(&format!("{SAVED} create:b append:b:two sync:b sync-folder:."));
    assert_eq!(left, files(&[("a", ""), ("b", "two")]));
}

#[test]
fn writes_and_fsyncs_fail_when_they_are_told_to() {
    let place = place();
    place.disk.fail_write(2, EIO).unwrap();
    let status = place.run("create:a append:a:one append:a:two append:a:three");
    assert_eq!(status.code(), Some(3));
    place.disk.fail_fsync(1, EIO).unwrap();
    assert_eq!(place.run("append:a:three sync:a").code(), Some(2));
    assert_eq!(place.run("append:a:four sync:a").code(), Some(0));
    assert_eq!(place.disk.failures().unwrap(), 2);
    assert_eq!(place.found(), files(&[("a", "onethreefour")]));
}

#[test]
fn a_full_disk_takes_what_fits_until_there_is_room() {
    let place = place();
    place.disk.limit_room(5).unwrap();
    assert_eq!(place.run("create:a append:a:one over:a:two append:a:four").code(), Some(4));
    assert_eq!(place.found(), files(&[("a", "twofo")]), "a short write, as the system does it");
    assert_eq!(place.run("create:b").code(), Some(1));
    place.disk.fail_only("/elsewhere").unwrap();
    assert_eq!(place.run("create:b").code(), Some(0));
    place.disk.fail_only("").unwrap();
    place.disk.make_room().unwrap();
    assert_eq!(place.run("append:a:ur").code(), Some(0));
}

#[test]
fn what_went_round_the_layer_is_noticed() {
    let place = place();
    place.cut_after(SAVED);
    fs::write(place.disk.root.join("a"), "longer").unwrap();
    let refused = place.disk.restore_bare().unwrap_err();
    assert!(refused.to_string().contains("the fault layer saw 3"), "{refused}");
}
