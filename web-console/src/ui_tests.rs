//! What holds for the files of `ui/`: languages, imports, checksums, hooks and sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::asset::{Encoding, asset, gzip, paths};

/// Our own scripts and styles, packed together; the base map and what is vendored are counted apart. A rule editor for every
/// condition, why an alert fired, a page of each device, accounts with second factors, a queue of comments, a page of keys, one of tools and one of clients of MQTT made it 108; how long readings
/// are kept, and the tools that somebody let in, 110.
const APP_GZIP_BYTES_MAX: usize = 120 * 1024;
/// What signing in and the overview ask for, each file packed by itself as it is sent; the texts of other pages come with them.
const FIRST_GZIP_BYTES_MAX: usize = 46 * 1024;
const VENDOR_JS_GZIP_BYTES_MAX: usize = 110 * 1024;
const MAP_GZIP_BYTES_MAX: usize = 250 * 1024;
const FILE_BYTES_MAX: usize = 900 * 1024;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn served(path: &str) -> Vec<u8> {
    asset(path, Encoding::Identity).unwrap().body.bytes().to_vec()
}

fn is(path: &str, kind: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == kind)
}

/// Our scripts, by path.
fn scripts() -> BTreeMap<String, String> {
    paths()
        .into_iter()
        .filter(|path| is(path, "js") && !path.starts_with("vendor/"))
        .map(|path| (path.to_string(), String::from_utf8(served(&path)).unwrap()))
        .collect()
}

/// What a language says first, and what it says with the other pages.
fn texts(language: &str) -> BTreeMap<String, String> {
    let mut texts = texts_of(language);
    for (key, text) in texts_of(&format!("{language}-pages")) {
        assert!(texts.insert(key.clone(), text).is_none(), "{language}: {key} is there twice");
    }
    texts
}

/// Reads `export default { 'key': 'text', … };`, where text is a string of one line.
fn texts_of(language: &str) -> BTreeMap<String, String> {
    let source = read(format!("ui/i18n/{language}.js"));
    let body = source.strip_prefix("export default {\n").unwrap().strip_suffix("};\n").unwrap();
    let mut texts = BTreeMap::new();
    for line in body.lines() {
        let (key, rest) = string(line.trim_start());
        let (text, rest) = string(rest.strip_prefix(": ").unwrap());
        assert_eq!(rest, ",", "{language}: {line}");
        assert!(texts.insert(key.clone(), text).is_none(), "{language}: {key} is there twice");
    }
    texts
}

/// The quoted string that `source` begins with, and what follows it.
fn string(source: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = source.char_indices();
    assert_eq!(characters.next().map(|(_, first)| first), Some('\''), "{source}");
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => return (text, &source[at + 1..]),
            '\\' => text.push(characters.next().unwrap().1),
            _ => text.push(character),
        }
    }
    panic!("unfinished: {source}");
}

fn placeholders(text: &str) -> BTreeSet<&str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).collect()
}

/// What stands between `before` and the next quote, wherever `before` occurs as a word of its own.
fn quoted_after<'a>(source: &'a str, before: &str) -> Vec<&'a str> {
    source
        .match_indices(before)
        .filter(|(at, _)| {
            let previous = source[..*at].chars().next_back();
            !previous.is_some_and(|one| one.is_alphanumeric() || one == '_' || one == '.')
        })
        .filter_map(|(at, _)| source[at + before.len()..].split('\'').next())
        .collect()
}

#[test]
fn both_languages_have_the_same_keys_and_placeholders() {
    let (en, ko) = (texts("en"), texts("ko"));
    assert!(en.len() > 200, "the reader found only {} texts", en.len());
    assert_eq!(en.keys().collect::<Vec<_>>(), ko.keys().collect::<Vec<_>>());
    for (key, text) in &en {
        assert_eq!(placeholders(text), placeholders(&ko[key]), "{key}");
        assert!(!text.trim().is_empty() && !ko[key].trim().is_empty(), "{key} is empty");
    }
}

#[test]
fn every_text_that_is_used_exists_and_every_text_is_used() {
    let known: BTreeSet<String> = texts("en").into_keys().collect();
    let mut used = BTreeSet::new();
    for (path, source) in scripts() {
        for before in ["t('", "rich('"] {
            for key in quoted_after(&source, before) {
                assert!(known.contains(key), "{path} uses '{key}', which no language has");
                used.insert(key.to_owned());
            }
        }
    }
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "no script uses {unused:?}");
}

#[test]
fn what_the_first_page_says_comes_with_it_and_nothing_else_does() {
    let (scripts, mut used) = (scripts(), BTreeSet::new());
    for source in first_files().iter().filter_map(|path| scripts.get(path)) {
        for before in ["t('", "rich('"] {
            used.extend(quoted_after(source, before).into_iter().map(str::to_owned));
        }
    }
    for language in ["en", "ko"] {
        let first: BTreeSet<String> = texts_of(language).into_keys().collect();
        let misplaced: Vec<_> = first.symmetric_difference(&used).collect();
        assert!(misplaced.is_empty(), "{language}: {misplaced:?}");
    }
}

#[test]
fn korean_stands_in_its_own_file_only() {
    let is_hangul = |one: char| ('가'..='힣').contains(&one);
    for (path, source) in scripts() {
        // A language is offered under its own name.
        let source = source.replace("한국어", "");
        assert!(path.starts_with("i18n/ko") || !source.contains(is_hangul), "{path}");
    }
    let texts = texts("ko");
    let foreign = texts.values().filter(|text| !text.contains(is_hangul)).count();
    assert!(foreign < 5, "{foreign} texts are not in Korean");
}

#[test]
fn every_import_leads_to_a_file() {
    let index = String::from_utf8(served("index.html")).unwrap();
    let map = index.split_once("importmap\">").unwrap().1.split_once("</script>").unwrap().0;
    let map: serde_json::Value = serde_json::from_str(map).unwrap();
    let imports = map["imports"].as_object().unwrap();
    let exists = |path: &str| asset(path, Encoding::Identity).is_some() && path.contains('.');
    for path in imports.values() {
        assert!(exists(path.as_str().unwrap()), "{path}");
    }
    let mut count = 0;
    for (script, source) in scripts() {
        let folder = Path::new(&script).parent().unwrap();
        for name in
            quoted_after(&source, "from '").into_iter().chain(quoted_after(&source, "import('"))
        {
            count += 1;
            if imports.contains_key(name) {
                continue;
            }
            assert!(name.starts_with('.'), "{script} imports {name}, which the import map lacks");
            let path = normal(&folder.join(name));
            assert!(exists(&path), "{script} imports {name}, which is not there");
        }
    }
    assert!(count > 50, "the reader found only {count} imports");
}

fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().unwrap().split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn vendored_files_are_the_ones_in_the_list() {
    let list: serde_json::Value = serde_json::from_str(&read("vendor.json")).unwrap();
    let versions = read("ui/vendor/VERSIONS");
    let mut listed = BTreeSet::new();
    for file in list["files"].as_array().unwrap() {
        let path = file["file"].as_str().unwrap();
        let hash = Sha256::digest(fs::read(root().join(path)).unwrap());
        let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert_eq!(file["sha256"], hash.as_str(), "{path}");
        assert!(versions.contains(&hash), "VERSIONS lacks {path}");
        listed.insert(path.strip_prefix("ui/").unwrap().to_owned());
    }
    let there: BTreeSet<_> = paths()
        .into_iter()
        .filter(|path| path.starts_with("vendor/") || path.starts_with("map/"))
        .map(String::from)
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn hooks_for_tests_are_the_ones_in_the_readme() {
    let readme = read("ui/README.md");
    let section = readme.split_once("## Hooks").unwrap().1.split_once("\n## ").unwrap().0;
    let listed: BTreeSet<String> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|hook| !hook.starts_with("data-"))
        // `station-<name>` stands for every station.
        .map(|hook| hook.split('<').next().unwrap().to_owned())
        .collect();
    let all: String = scripts().into_values().collect();
    for hook in &listed {
        let there = ["data-test=\"", "data-test=${`", "`", "test=\"", "'"];
        assert!(
            there.iter().any(|before| all.contains(&format!("{before}{hook}"))),
            "no page has {hook}"
        );
    }
    for hook in all.split("data-test=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(listed.contains(hook), "ui/README.md does not list {hook}");
    }
}

/// The page, its style, one language, and every script of ours that the overview needs.
fn first_files() -> BTreeSet<String> {
    let scripts = scripts();
    let mut files =
        BTreeSet::from(["index.html", "style.css", "early.js", "i18n/ko.js"].map(String::from));
    let mut ahead = vec!["main.js".to_owned(), "pages/overview.js".to_owned()];
    while let Some(path) = ahead.pop() {
        if !files.insert(path.clone()) {
            continue;
        }
        let folder = Path::new(&path).parent().unwrap();
        for name in
            quoted_after(&scripts[&path], "from '").into_iter().filter(|name| name.starts_with('.'))
        {
            ahead.push(normal(&folder.join(name)));
        }
    }
    files
}

#[test]
fn the_console_stays_small() {
    let first: usize = first_files().iter().map(|path| gzip(&served(path)).len()).sum();
    let packed = |keep: &dyn Fn(&str) -> bool| -> usize {
        paths().iter().filter(|path| keep(path)).map(|path| gzip(&served(path)).len()).sum()
    };
    let is_vendored = |path: &str| path.starts_with("vendor/");
    let is_code = |path: &str| is(path, "js") || is(path, "css") || is(path, "html");
    let ours: Vec<u8> = paths()
        .iter()
        .filter(|path| is_code(path) && !is_vendored(path))
        .flat_map(|path| served(path))
        .collect();
    let app = gzip(&ours).len();
    let vendor = packed(&|path| is_vendored(path) && is(path, "js"));
    let map = packed(&|path| path.starts_with("map/"));
    println!(
        "gzip: app {app}, first page {first}, vendored scripts {vendor}, base map {map} bytes"
    );
    let readme = read("ui/README.md");
    for (what, most) in [
        ("our scripts and styles together", APP_GZIP_BYTES_MAX),
        ("what signing in and the overview ask for", FIRST_GZIP_BYTES_MAX),
        ("vendored scripts", VENDOR_JS_GZIP_BYTES_MAX),
        ("base map", MAP_GZIP_BYTES_MAX),
    ] {
        let line = format!("{what} {} KB", most / 1024);
        assert!(readme.replace('\n', " ").contains(&line), "ui/README.md does not say: {line}");
    }
    assert!(app <= APP_GZIP_BYTES_MAX, "app: {app} bytes");
    assert!(first <= FIRST_GZIP_BYTES_MAX, "first page: {first} bytes");
    assert!(vendor <= VENDOR_JS_GZIP_BYTES_MAX, "vendored scripts: {vendor} bytes");
    assert!(map <= MAP_GZIP_BYTES_MAX, "base map: {map} bytes");
    for path in paths() {
        let size = served(&path).len();
        assert!(size <= FILE_BYTES_MAX, "{path}: {size} bytes");
    }
}
