//! What is drawn of `/metrics`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::launch;

/// The metrics that the expressions of a Grafana dashboard ask for.
fn asked(dashboard: &Value) -> BTreeSet<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let words = targets.flat_map(|target| {
        target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
    });
    words.filter(|word| word.starts_with("madang_")).map(str::to_owned).collect()
}

/// Those that are shown from the first time on that they happen, and where they are made.
const RARE: [(&str, &str); 3] = [
    ("mqtt_dropped", include_str!("../../../engines/mqtt/src/meter.rs")),
    ("task_panics", include_str!("../../../base/src/metrics.rs")),
    ("task_restarts", include_str!("../../../base/src/metrics.rs")),
];

#[test]
fn grafana_is_told_to_draw_what_there_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/madang.json");
    let text = std::fs::read_to_string(file).unwrap();
    let asked = asked(&serde_json::from_str(&text).unwrap());
    assert!(asked.len() > 30, "{asked:?}");
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    stack.api().get("/v1/overview").unwrap().ok().unwrap();
    stack.api().post("/v1/devices/roof/readings", &json!([7])).unwrap().ok().unwrap();
    let text = String::from_utf8(stack.api().get("/metrics").unwrap().body).unwrap();
    let mut known: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let ends: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            ends.iter().map(move |end| format!("{name}{end}"))
        })
        .collect();
    for (name, made) in RARE {
        assert!(made.contains(&format!("\"{name}\"")), "{name}");
        known.insert(format!("madang_{name}_total"));
    }
    let missing: Vec<_> = asked.difference(&known).collect();
    assert!(missing.is_empty(), "there is no {missing:?}");
}
