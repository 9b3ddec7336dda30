//! Who goes is told what was kept, and is in no file of the house afterwards, nor in one that comes back from a backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Http, Stack, within};

use crate::{binary, launch};

const PASSWORD: &str = "a long password of somebody";
const EMAIL: &str = "unmistakable@example.org";
const BLOG: &str = "https://blog.example.com";
/// In everything that says who she is, and in everything that she writes.
const MARK: &str = "nmistakabl";

/// Somebody who uses all that keeps something about people.
struct Mina {
    id: String,
    http: Http,
    site: Value,
    page: String,
    slug: String,
}

fn mina(stack: &Stack) -> Mina {
    let api = stack.api();
    let new = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "userName": EMAIL, "displayName": "Mina Unmistakable", "password": PASSWORD,
    });
    let made = api.post("/scim/v2/Users", &new).unwrap().ok().unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let given = json!({"email": EMAIL, "password": PASSWORD});
    let tokens = stack.stranger().post("/v1/tokens", &given).unwrap().ok().unwrap();
    let token = tokens["access_token"].as_str().unwrap();
    let http = stack.stranger().bearer(token);

    let conduit = stack.stranger().header("authorization", &format!("Token {token}"));
    let user = json!({"user": {"username": "unmistakable-mina", "bio": "an unmistakable bio"}});
    conduit.put("/conduit/api/user", &user).unwrap().ok().unwrap();
    // The words of a title are in the name of its page, which versions of answers are kept by for a day.
    let article = json!({"article": {
        "title": "A roof", "description": "unmistakable", "body": "unmistakable words", "tagList": ["wind"],
    }});
    let article = conduit.post("/conduit/api/articles", &article).unwrap().ok().unwrap();
    let slug = article["article"]["slug"].as_str().unwrap().to_owned();
    let said = json!({"comment": {"body": "unmistakably said"}});
    let at = format!("/conduit/api/articles/{slug}");
    conduit.post(&format!("{at}/comments"), &said).unwrap().ok().unwrap();
    conduit.post(&format!("{at}/favorite"), &json!({})).unwrap().ok().unwrap();

    let site = json!({"name": "Blog", "origins": [BLOG]});
    let site = api.post("/v1/comment-sites", &site).unwrap().ok().unwrap();
    let key = site["key"].as_str().unwrap();
    let name = json!({"name": "Unmistakable Mina"});
    let signed = http.post(&format!("/comments/{key}/tokens"), &name).unwrap().ok().unwrap();
    let reader = stack.stranger().header("origin", BLOG);
    let reader = reader.bearer(signed["token"].as_str().unwrap());
    let comment = json!({"url": format!("{BLOG}/one"), "name": "", "text": "an unmistakable comment",
        "browser": "a-browser-of-mina-0000000000"});
    reader.post(&format!("/comments/{key}/comments"), &comment).unwrap().ok().unwrap();
    let page = format!("/comments/{key}/thread?url={BLOG}/one");

    let sensor = json!({"name": "wind", "values": [{"name": "speed", "unit": "m/s"}]});
    http.post("/v1/sensors", &sensor).unwrap().ok().unwrap();
    let device = json!({"name": "roof-1", "sensors": ["wind"]});
    http.post("/v1/devices", &device).unwrap().ok().unwrap();
    let rule = json!({
        "name": "Any wind", "sensor": "wind", "device": "roof-1", "cooldown_seconds": 0,
        "conditions": [{"value": "speed", "ranges": [{"min": 0, "max": null}]}],
        "actions": [{"type": "email", "to": "ops@example.com"}],
    });
    let rule = http.post("/v1/rules", &rule).unwrap().ok().unwrap();
    let versions = format!("/v1/rules/{}/versions", rule["id"].as_str().unwrap());
    let versions = api.get(&versions).unwrap().ok().unwrap();
    assert_eq!(versions["items"][0]["author"], EMAIL, "people read an address");
    let reading = |speed: Value| {
        let time = "2013-01-01T06:00:00Z";
        json!({"sensor": "wind", "time": time, "values": {"speed": speed}})
    };
    for speed in [json!(7), json!("fast")] {
        http.post("/v1/devices/roof-1/readings", &reading(speed)).unwrap();
    }
    let letter = within(Duration::from_secs(30), "a dead letter", || {
        let letters = api.get("/v1/dead-letters?source=reading")?.ok()?;
        Ok(letters["items"].get(0).cloned())
    });
    assert_eq!(letter.unwrap()["from"], EMAIL, "and here as well");
    let alert = within(Duration::from_secs(30), "an alert", || {
        Ok(api.get("/v1/alerts")?.ok()?["items"].get(0).cloned())
    });
    let alert = format!("/v1/alerts/{}/acknowledge", alert.unwrap()["id"].as_str().unwrap());
    let alert = http.post(&alert, &json!({})).unwrap().ok().unwrap();
    assert_eq!(alert["acknowledged"]["by"], EMAIL);
    Mina { id, http, site, page, slug }
}

/// The files below a folder that have the mark in them.
fn traces(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(traces(&path));
        } else if fs::read(&path).unwrap().windows(MARK.len()).any(|part| part == MARK.as_bytes()) {
            found.push(path);
        }
    }
    found
}

/// Until no room has anything to do for who went.
fn settled(stack: &Stack) {
    within(Duration::from_mins(3), "the rooms to have forgotten", || {
        let metrics = stack.stranger().get("/metrics")?.text();
        let none = metrics.lines().any(|line| {
            line.starts_with("madang_relational_commands_waiting") && line.ends_with(" 0")
        });
        Ok(none.then_some(()))
    })
    .unwrap();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn who_goes_with_all_they_wrote_is_in_no_file_not_even_of_a_backup_that_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mina = mina(&stack);

    let told = mina.http.get("/v1/account/export").unwrap();
    assert_eq!(told.status, 200);
    let told = told.text();
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(of("account")[0]["email"], EMAIL);
    assert_eq!(of("profile")[0]["bio"], "an unmistakable bio");
    assert_eq!(of("article")[0]["body"], "unmistakable words");
    assert_eq!(of("article-comment")[0]["text"], "unmistakably said");
    assert_eq!(of("favourite")[0]["article"], mina.slug);
    assert_eq!(of("comment")[0]["text"], "an unmistakable comment");
    assert_eq!(of("comment")[0]["page"], format!("{BLOG}/one"));
    assert!(!of("session").is_empty() && !of("audit").is_empty(), "{told}");
    assert!(!told.contains("argon2") && !told.contains("_hash"), "nothing that opens a door");
    let other = stack.api().get(&format!("/v1/people/{}/export", mina.id)).unwrap();
    assert_eq!(other.text().lines().filter(|line| !line.contains("audit")).count(), {
        told.lines().filter(|line| !line.contains("audit")).count()
    });

    stack.terminate().unwrap();
    let backup = tempfile::tempdir().unwrap();
    copy(folder.path(), backup.path());
    assert!(!traces(&backup.path().join("data")).is_empty(), "the search finds what is there");

    let stack = launch(&folder).start().unwrap();
    let at = format!("/v1/people/{}", mina.id);
    assert_eq!(stack.api().delete(&format!("{at}?texts=erase")).unwrap().status, 204);
    assert_eq!(stack.api().get(&at).unwrap().status, 404);
    settled(&stack);
    let thread = stack.stranger().header("origin", BLOG).get(&mina.page).unwrap().ok().unwrap();
    assert_eq!(thread["count"], 0, "{thread}");
    let article = format!("/conduit/api/articles/{}", mina.slug);
    assert_eq!(stack.stranger().get(&article).unwrap().status, 404);
    let letters = stack.api().get("/v1/dead-letters?source=reading").unwrap().ok().unwrap();
    assert_eq!(letters["items"][0]["from"], format!("account:{}", mina.id));
    stack.terminate().unwrap();
    assert_eq!(traces(&folder.path().join("data")), Vec::<PathBuf>::new());

    // The rows of before come back, the list of who was removed is the newest.
    let list = "data/keys/removed";
    fs::copy(folder.path().join(list), backup.path().join(list)).unwrap();
    let stack = testkit::Launch::new(binary(), backup.path()).start().unwrap();
    assert_eq!(stack.api().get(&at).unwrap().status, 404, "before the first request");
    let given = json!({"email": EMAIL, "password": PASSWORD});
    assert_eq!(stack.stranger().post("/v1/tokens", &given).unwrap().status, 401);
    settled(&stack);
    stack.terminate().unwrap();
    assert_eq!(traces(&backup.path().join("data")), Vec::<PathBuf>::new());
}

#[test]
fn who_goes_by_themselves_leaves_texts_that_name_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mina = mina(&stack);
    let leave = |body: &Value| mina.http.post("/v1/account/removal", body).unwrap().status;
    assert_eq!(leave(&json!({})), 403, "the password is asked for");
    assert_eq!(leave(&json!({"password": "another long password"})), 403);
    assert_eq!(leave(&json!({"password": PASSWORD})), 204);
    assert_eq!(mina.http.get("/v1/account/export").unwrap().status, 401);
    let nameless = |path: &str| -> anyhow::Result<Option<Value>> {
        let reply = stack.stranger().header("origin", BLOG).get(path)?.ok()?;
        let text = reply.to_string();
        Ok((!text.contains("Unmistakable Mina") && !text.contains("unmistakable-mina"))
            .then_some(reply))
    };
    let limit = Duration::from_secs(30);
    let thread = within(limit, "a thread without her name", || nameless(&mina.page)).unwrap();
    assert_eq!(thread["count"], 1);
    assert_eq!(thread["comments"][0]["name"], "—");
    let path = format!("/conduit/api/articles/{}", mina.slug);
    let article = within(limit, "an article without her name", || nameless(&path)).unwrap();
    assert_eq!(article["article"]["body"], "unmistakable words");
    let author = &article["article"]["author"];
    assert_eq!(author["username"], format!("removed-{}", mina.id));
    assert_eq!((&author["bio"], &article["article"]["favoritesCount"]), (&Value::Null, &json!(0)));
    let path = format!("/v1/comment-sites/{}/comments", mina.site["id"].as_str().unwrap());
    let seen = stack.api().get(&path).unwrap().ok().unwrap().to_string();
    assert!(!seen.contains("Unmistakable Mina"), "nor by who keeps the site: {seen}");
}
