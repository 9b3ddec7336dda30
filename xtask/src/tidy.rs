//! The dependency rules and invariants of ARCHITECTURE.md, as tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Heavy dependencies and the one crate that may name each.
const OWNED: &[(&str, &str)] = &[
    ("datafusion", "lake"),
    ("deltalake", "lake"),
    ("object_store", "lake"),
    ("rusqlite", "relational"),
    ("tokio-postgres", "relational"),
    ("mysql_async", "relational"),
    ("rmqtt-codec", "mqtt"),
    ("mio", "kv"),
    ("mlua", "kv"),
    ("redis", "kv"),
    ("lettre", "delivery"),
    ("argon2", "identity"),
    ("aws-lc-rs", "identity"),
    ("instant-acme", "certificates"),
    ("rust-embed", "web-console"),
    ("clap", "server"),
    ("mimalloc", "server"),
];

/// The arrows between engines; ARCHITECTURE.md lists the same.
const ENGINE_ARROWS: &[(&str, &str)] = &[
    ("relational", "eventlog"),
    ("identity", "relational"),
    ("delivery", "relational"),
    ("mqtt", "relational"),
    ("results", "kv"),
    ("results", "relational"),
    ("jobs", "relational"),
    ("sockets", "eventlog"),
    ("sockets", "relational"),
];

#[test]
fn every_arrow_points_the_right_way() {
    let metadata = metadata();
    let layers = layers(&metadata);
    let mut faults = vec![];
    for package in packages(&metadata) {
        let name = text(&package["name"]);
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = text(&dependency["name"]);
            let is_development = dependency["kind"] == "dev";
            if let Some(to_layer) = layers.get(to)
                && !is_development
                && !allowed((name, layers[name].as_str()), (to, to_layer))
            {
                faults.push(format!("{name} must not name {to}"));
            }
            let owner = OWNED.iter().find(|(heavy, _)| *heavy == to).map(|(_, owner)| *owner);
            if owner.is_some_and(|owner| owner != name) {
                faults.push(format!("{name} names {to}; only {} may", owner.unwrap_or_default()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn allowed(from: (&str, &str), to: (&str, &str)) -> bool {
    match (from.1, to.1) {
        ("engines", "engines") => ENGINE_ARROWS.contains(&(from.0, to.0)),
        ("engines" | "edge" | "testkit", to) => to == "base",
        ("features", to) => matches!(to, "base" | "edge" | "engines"),
        ("server", to) => !matches!(to, "faulty" | "testkit" | "xtask"),
        ("xtask", to) => to == "testkit",
        // A development tool: the server with a room that goes wrong.
        ("faulty", to) => matches!(to, "server" | "base" | "edge" | "engines"),
        // `base` and `web-console` name nobody.
        _ => false,
    }
}

#[test]
fn one_part_seals() {
    let ciphers = ["ring::", "aead"].concat();
    for file in tracked(|path| {
        path.rsplit_once('.').is_some_and(|(name, end)| end == "rs" && name != "base/src/seal")
    }) {
        let Ok(source) = fs::read_to_string(&file) else { continue };
        assert!(!source.contains(&ciphers), "{}: only `base` seals", file.display());
    }
}

#[test]
fn the_rules_themselves_refuse_what_they_should() {
    assert!(!allowed(("base", "base"), ("edge", "edge")));
    assert!(!allowed(("lake", "engines"), ("identity", "engines")));
    assert!(!allowed(("devices", "features"), ("polls", "features")));
    assert!(!allowed(("mqtt", "engines"), ("devices", "features")));
    assert!(!allowed(("edge", "edge"), ("relational", "engines")));
    assert!(allowed(("mqtt", "engines"), ("relational", "engines")));
    assert!(!allowed(("server", "server"), ("faulty", "faulty")));
}

#[test]
fn every_crate_takes_the_lints_and_names_no_crate_of_the_lock_file() {
    let metadata = metadata();
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: Vec<&str> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("name = \""))
        .map(|n| n.trim_end_matches('"'))
        .collect();
    for package in packages(&metadata) {
        let name = text(&package["name"]);
        let manifest = fs::read_to_string(text(&package["manifest_path"])).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not take the lints");
        assert_eq!(
            names.iter().filter(|known| **known == name).count(),
            1,
            "{name} is also a crate"
        );
    }
}

#[test]
fn every_crate_says_what_it_is() {
    for file in tracked(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs")) {
        let source = fs::read_to_string(&file).unwrap();
        assert!(source.starts_with("//! "), "{} does not begin with what it is", file.display());
    }
}

#[test]
fn every_room_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() <= 250, "ARCHITECTURE.md is over 250 lines");
    let metadata = metadata();
    for (name, _) in layers(&metadata) {
        assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name `{name}`");
    }
}

#[test]
fn no_file_is_huge_or_unfinished() {
    for file in tracked(|_| true) {
        let Ok(metadata) = fs::metadata(&file) else { continue };
        let is_data = file.components().any(|part| {
            matches!(
                part.as_os_str().to_str(),
                Some("vendor" | "samples" | "map" | "proofs" | "pictures" | "openapi.json")
            )
        });
        let limit = if is_data { 1_000_000 } else { 300_000 };
        assert!(metadata.len() <= limit, "{} is over {limit} bytes", file.display());
        let is_source = file.extension().is_some_and(|kind| kind == "rs" || kind == "js");
        if is_source && !is_data && !file.ends_with("xtask/src/tidy.rs") {
            let source = fs::read_to_string(&file).unwrap();
            for word in ["todo!(", "unimplemented!(", "FIXME", "TODO", "dbg!(", "#[ignore"] {
                assert!(!source.contains(word), "{} holds {word}", file.display());
            }
        }
    }
}

#[test]
fn nothing_names_a_package_registry() {
    let hosts = [
        "crates".to_owned() + ".io",
        "npmjs".to_owned() + ".",
        "pypi".to_owned() + ".org",
        "python".to_owned() + "hosted",
    ];
    for file in tracked(|path| !path.ends_with("Cargo.lock")) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for host in &hosts {
            assert!(!text.contains(host), "{} names {host}", file.display());
        }
    }
}

#[test]
fn every_file_that_a_page_names_is_there() {
    // Not what a build or a start makes.
    let kept = tracked(|path| path.contains('/') && !path.starts_with('.'));
    let root = root();
    let tops: BTreeSet<_> =
        kept.iter().filter_map(|path| path.strip_prefix(&root).ok()?.iter().next()).collect();
    let mut count = 0;
    for page in tracked(|path| Path::new(path).extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        let outside: Vec<&str> = text.split("```").step_by(2).collect();
        for name in outside.iter().flat_map(|part| part.split('`').skip(1).step_by(2)) {
            // What the guide has one write is not there yet.
            let is_toy = page.ends_with("add-a-feature.md") && name.contains("notes");
            let is_pattern = name.contains([' ', '<', '{', '*']) || name.contains("NAME");
            let is_ours =
                name.split_once('/').is_some_and(|(top, _)| tops.contains(OsStr::new(top)));
            if is_toy || is_pattern || !is_ours {
                continue;
            }
            count += 1;
            assert!(root.join(name).exists(), "{}: there is no {name}", page.display());
        }
    }
    assert!(count > 50, "the reader found only {count} files");
}

#[test]
fn the_guide_to_a_feature_takes_what_the_workspace_has() {
    let guide = fs::read_to_string(root().join("docs/guides/add-a-feature.md")).unwrap();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let taken = guide.lines().filter_map(|line| line.strip_suffix(".workspace = true"));
    let taken: Vec<&str> = taken.collect();
    assert!(taken.len() > 10, "{taken:?}");
    for name in taken {
        let is_there = manifest.lines().any(|line| line.starts_with(&format!("{name} = ")));
        assert!(is_there, "Cargo.toml has no {name}");
    }
}

/// Each is a row of identity/rights: by an operation of the document, or at another door.
#[test]
fn every_action_is_asked_in_identity_rights() {
    let document = fs::read_to_string(root().join("docs/openapi.json")).unwrap();
    // Development tools' own are not shipped.
    let is_tool = |path: &str| ["faulty", "xtask"].iter().any(|tool| path.starts_with(tool));
    let sources = tracked(|path| {
        let is_source = Path::new(path).extension().is_some_and(|end| end == "rs");
        is_source && !path.contains("test") && !is_tool(path)
    });
    let mut found = BTreeSet::new();
    for file in sources {
        let source = fs::read_to_string(&file).unwrap();
        let after = source.split("Action(\"").skip(1);
        found.extend(after.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    assert!(found.len() > 35, "{found:?}");
    for action in found {
        let is_over_http = document.contains(&format!("\"x-action\": \"{action}\""));
        let is_elsewhere = testkit::proofs::identity::OTHER_ACTIONS.contains(&&*action);
        assert!(is_over_http || is_elsewhere, "{action} has no row in identity/rights");
    }
}

/// The requirements of OWASP ASVS 5.0 at levels 1 and 2: chapter, section and numbers.
const ASVS: &str = "1.1:1-2 1.2:1-9 1.3:1-11 1.4:1-3 1.5:1-2 2.1:1-3 2.2:1-3 2.3:1-4 2.4:1 3.2:1-2 3.3:1-4 \
    3.4:1-6 3.5:1-5 3.7:1-2 4.1:1-3 4.2:1 4.3:1-2 4.4:1-4 5.1:1 5.2:1-3 5.3:1-2 5.4:1-3 \
    6.1:1-3 6.2:1-12 6.3:1-4 6.4:1-4 6.5:1-5 6.6:1-3 6.8:1-4 7.1:1-3 7.2:1-4 7.3:1-2 7.4:1-5 \
    7.5:1-2 7.6:1-2 8.1:1-2 8.2:1-3 8.3:1 8.4:1 9.1:1-3 9.2:1-4 10.1:1-2 10.2:1-2 10.3:1-4 \
    10.4:1-11 10.5:1-5 10.6:1-2 10.7:1-3 11.1:1-2 11.2:1-3 11.3:1-3 11.4:1-4 11.5:1 11.6:1 \
    12.1:1-3 12.2:1-2 12.3:1-4 13.1:1 13.2:1-5 13.3:1-2 13.4:1-5 14.1:1-2 14.2:1-4 14.3:1-3 \
    15.1:1-3 15.2:1-3 15.3:1-7 16.1:1 16.2:1-5 16.3:1-4 16.4:1-3 16.5:1-3 17.1:1 17.2:1-4 \
    17.3:1-2";

fn asvs() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for section in ASVS.split(' ') {
        let (section, runs) = section.split_once(':').unwrap();
        for run in runs.split(',') {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            let numbers = first.parse::<u32>().unwrap()..=last.parse().unwrap();
            all.extend(numbers.map(|number| format!("{section}.{number}")));
        }
    }
    all
}

/// Every test of the workspace by its name.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in tracked(|path| Path::new(path).extension().is_some_and(|end| end == "rs")) {
        let source = fs::read_to_string(&file).unwrap();
        let plain = source.split("test]").skip(1);
        for marked in plain.chain(source.split("tokio::test(").skip(1)) {
            // Other attributes may stand between.
            let head: Vec<&str> = marked.lines().take(5).collect();
            let line = head.into_iter().find(|line| {
                line.trim_start().starts_with("fn ") || line.trim_start().starts_with("async fn ")
            });
            let name = line.and_then(|line| line.split_once("fn ")?.1.split('(').next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_requirement_of_asvs_is_a_row_whose_tests_exist() {
    let table = fs::read_to_string(root().join("docs/asvs.md")).unwrap();
    let (tests, mut missing) = (tests(), asvs());
    assert_eq!(missing.len(), 253, "70 of level 1 and 183 of level 2");
    let proofs: BTreeSet<&str> = testkit::proofs::ALL.iter().map(|(name, _)| *name).collect();
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| number"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, level, _, stands] = cells[..] else { panic!("not four cells: {row}") };
        assert!(missing.remove(number), "{number} is no requirement, or twice there");
        assert!(matches!(level, "1" | "2"), "{row}");
        let shown: Vec<&str> = stands.split('`').skip(1).step_by(2).collect();
        let named = shown.iter().filter(|name| name.contains('_') || name.contains('/'));
        let mut count = 0;
        for name in named.filter(|name| !name.starts_with("__")) {
            let exists =
                if name.contains('/') { proofs.contains(name) } else { tests.contains(*name) };
            assert!(exists, "{number}: there is no {name}");
            count += 1;
        }
        assert!(count > 0 || stands.starts_with("gap") || stands.starts_with("not here"), "{row}");
    }
    assert!(missing.is_empty(), "no row for {missing:?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask stands in the workspace")
        .to_owned()
}

fn tracked(keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let listing = Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    assert!(listing.status.success(), "git ls-files failed");
    let listing = String::from_utf8(listing.stdout).unwrap();
    let files: Vec<PathBuf> =
        listing.lines().filter(|path| keep(path)).map(|path| root().join(path)).collect();
    assert!(!files.is_empty());
    files
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().unwrap()
}

/// Each crate's top folder.
fn layers(metadata: &Value) -> BTreeMap<&str, String> {
    let root = root();
    packages(metadata)
        .iter()
        .map(|package| {
            let manifest = Path::new(text(&package["manifest_path"]));
            let inside = manifest.strip_prefix(&root).unwrap();
            let folder = inside.components().next().unwrap().as_os_str().to_string_lossy();
            (text(&package["name"]), folder.into_owned())
        })
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
