//! People and groups: changed by hand, and by a directory that speaks SCIM.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Browser, Http, Stack, StompClient};

use crate::launch;

const PASSWORD: &str = "a long password of mina";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/clients/scim/check.py");

/// A key that may do only what is listed.
fn key(stack: &Stack, grants: &[(&str, &str)]) -> Http {
    let grants = grants.iter().map(|(action, on)| json!({"action": action, "resource": on}));
    let body = json!({"label": "directory", "grants": grants.collect::<Vec<_>>()});
    let made = stack.api().post("/v1/keys", &body).unwrap().ok().unwrap();
    stack.stranger().bearer(made["token"].as_str().unwrap())
}

fn tokens(stack: &Stack, email: &str) -> (u16, Option<String>) {
    let given = json!({"email": email, "password": PASSWORD});
    let reply = stack.stranger().post("/v1/tokens", &given).unwrap();
    let text = reply.json().unwrap()["access_token"].as_str().map(str::to_owned);
    (reply.status, text)
}

fn user(email: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "userName": email, "displayName": "Mina Kim", "externalId": format!("dir-{email}"),
        "name": { "givenName": "Mina", "familyName": "Kim" }, "password": PASSWORD,
        "active": true,
    })
}

fn patch(operations: &Value) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": operations,
    })
}

/// An independent suite of the RFCs' words, with every attribute that our schemas list.
#[test]
fn scim_is_as_an_independent_suite_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let python = testkit::cache_folder().unwrap().join("scim/tools/bin/python");
    let base = format!("{}/scim/v2", stack.stranger().origin());
    let output = Command::new(python)
        .args([SCRIPT, &base, stack.token()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The only address is the primary one, whatever was said of it by chance.
    let mut short = found["short"].as_array().unwrap().clone();
    short.retain(|it| !it.as_str().unwrap().contains("primary=False"));
    assert_eq!(json!(short), json!([]), "{found:#}");
    assert!(found["counts"]["success"].as_u64().unwrap() >= 40, "{found:#}");
}

#[test]
fn who_leaves_the_directory_is_out_at_once_everywhere_and_may_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let directory = stack.api();
    let made = directory.post("/scim/v2/Users", &user("mina@example.org")).unwrap();
    assert_eq!(made.status, 201);
    let location = made.headers.iter().find(|(name, _)| name == "location").unwrap().1.clone();
    let mina = made.json().unwrap();
    let at = format!("/scim/v2/Users/{}", mina["id"].as_str().unwrap());
    assert!(location.ends_with(&at), "{location}");
    assert!(!mina.to_string().contains(PASSWORD), "a password is never shown");
    // As directories look for whom they know.
    for filter in ["userName eq \"Mina@Example.org\"", "externalId eq \"dir-mina@example.org\""] {
        let filter: String = url_encoded(filter);
        let found =
            directory.get(&format!("/scim/v2/Users?filter={filter}")).unwrap().ok().unwrap();
        assert_eq!(
            (&found["totalResults"], &found["Resources"][0]["id"]),
            (&json!(1), &mina["id"])
        );
    }
    assert_eq!(directory.post("/scim/v2/Users", &user("mina@example.org")).unwrap().status, 409);
    let token = tokens(&stack, "mina@example.org").1.unwrap();
    let shown = stack.stranger().bearer(&token);
    assert_eq!(shown.get("/v1/devices").unwrap().status, 200, "a member");
    let mut stream = shown.events("/v1/events?topic=readings").unwrap();
    let header = format!("authorization: Bearer {token}\r\n");
    let mut socket = StompClient::open(stack.http_address(), &header).unwrap();
    socket.log_in("host:here").unwrap();
    let off = patch(&json!([{ "op": "Replace", "path": "active", "value": "False" }]));
    #[allow(clippy::disallowed_methods, reason = "the time is what is tested")]
    let began = Instant::now();
    let reply = directory.patch(&at, &off).unwrap().ok().unwrap();
    assert_eq!(reply["active"], false);
    let ends = thread::spawn(move || while matches!(socket.hear(), Ok(Some(_))) {});
    while stream.next_event().unwrap().is_some() {}
    ends.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(shown.get("/v1/devices").unwrap().status, 401);
    assert_eq!(tokens(&stack, "mina@example.org").0, 401);
    let on = patch(&json!([{ "op": "replace", "value": { "active": true } }]));
    directory.patch(&at, &on).unwrap().ok().unwrap();
    assert_eq!(shown.get("/v1/devices").unwrap().status, 401, "what ended stays ended");
    assert_eq!(tokens(&stack, "mina@example.org").0, 200);
    assert_eq!(directory.delete(&at).unwrap().status, 204);
    for path in [&*at, &at.replace("/scim/v2/Users", "/v1/people")] {
        assert_eq!(directory.get(path).unwrap().status, 404);
    }
    assert_eq!(tokens(&stack, "mina@example.org").0, 401);
    let again = directory.post("/scim/v2/Users", &user("mina@example.org")).unwrap().ok().unwrap();
    assert_ne!(again["id"], mina["id"], "somebody new");
    let audit = stack.api().get("/v1/audit?action=account.*").unwrap().ok().unwrap().to_string();
    for action in ["account.add", "account.suspend", "account.restore", "account.remove"] {
        assert!(audit.contains(action), "{action}");
    }
    assert!(!audit.contains("mina@example.org"), "nothing of who was removed is left in it");
}

#[test]
fn a_group_lets_people_do_more_while_they_are_in_it_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    let mina = api.post("/scim/v2/Users", &user("mina@example.org")).unwrap().ok().unwrap();
    let id = mina["id"].as_str().unwrap().to_owned();
    let grants = json!([{"action": "audit.read", "resource": "*"}]);
    let group = api.post("/v1/groups", &json!({"name": "Auditors", "grants": grants})).unwrap();
    let group = group.ok().unwrap();
    let group_id = group["id"].as_str().unwrap().to_owned();
    let token = tokens(&stack, "mina@example.org").1.unwrap();
    let may = |stack: &Stack| stack.stranger().bearer(&token).get("/v1/audit").unwrap().status;
    assert_eq!(may(&stack), 403);
    // The directory fills the group that an administrator made.
    let at = format!("/scim/v2/Groups/{group_id}");
    let add = patch(&json!([{ "op": "Add", "path": "members", "value": [{ "value": id }] }]));
    api.patch(&at, &add).unwrap().ok().unwrap();
    assert_eq!(may(&stack), 200);
    let listed = api.get(&format!("/v1/people/{id}")).unwrap().ok().unwrap();
    assert_eq!(listed["groups"][0]["name"], "Auditors");
    stack.terminate().unwrap();
    let stack = launch(&folder).start().unwrap();
    assert_eq!(may(&stack), 200, "after a restart");
    let api = stack.api();
    let path = format!("members[value eq \"{id}\"]");
    let remove = patch(&json!([{ "op": "remove", "path": path }]));
    api.patch(&at, &remove).unwrap().ok().unwrap();
    assert_eq!(may(&stack), 403);
    let put = format!("/v1/groups/{group_id}/members/{id}");
    for expected in [204, 204] {
        assert_eq!(api.send("PUT", &put, None).unwrap().status, expected);
    }
    assert_eq!(may(&stack), 200);
    let less = json!({ "grants": [] });
    api.patch(&format!("/v1/groups/{group_id}"), &less).unwrap().ok().unwrap();
    assert_eq!(may(&stack), 403);
    // Whoever is not there is a wrong value, and not a group that is gone.
    let nobody = json!([{ "op": "add", "path": "members", "value": [{ "value": group_id }] }]);
    let refused = api.patch(&at, &patch(&nobody)).unwrap();
    assert_eq!(
        (refused.status, &refused.json().unwrap()["scimType"]),
        (400, &json!("invalidValue"))
    );
    // As Okta says it after each creation.
    let whole =
        json!([{ "op": "replace", "value": { "id": group_id, "displayName": "Auditing" } }]);
    let renamed = api.patch(&at, &patch(&whole)).unwrap().ok().unwrap();
    assert_eq!(renamed["displayName"], "Auditing");
    // A version that is not the newest changes nothing.
    let old = api.header("if-match", "W/\"0\"").patch(&at, &add).unwrap();
    assert_eq!(old.status, 412);
}

/// Whoever sets somebody's address could come in as them.
#[test]
fn a_directory_s_key_changes_nobody_who_may_do_more_than_it() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    let people = api.get("/v1/people").unwrap().ok().unwrap();
    let admin = people["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(people["items"][0]["role"], "admin");
    let weak = key(&stack, &[("accounts.*", "*")]);
    let taken =
        patch(&json!([{ "op": "replace", "path": "emails.value", "value": "thief@x.org" }]));
    let at = format!("/scim/v2/Users/{admin}");
    let refused = weak.patch(&at, &taken).unwrap();
    assert_eq!((refused.status, &refused.json().unwrap()["status"]), (403, &json!("403")));
    assert_eq!(weak.delete(&at).unwrap().status, 403);
    let made = weak.post("/scim/v2/Users", &user("mina@example.org")).unwrap();
    assert_eq!(made.status, 403, "a member may do more than this key");
    let grants = json!([{"action": "*", "resource": "*"}]);
    let wide = weak.post("/v1/groups", &json!({"name": "All", "grants": grants})).unwrap();
    assert_eq!(wide.status, 403);
    // Not even by a group that is there already.
    let group =
        api.post("/v1/groups", &json!({"name": "All", "grants": grants})).unwrap().ok().unwrap();
    let at = format!("/scim/v2/Groups/{}", group["id"].as_str().unwrap());
    let add = patch(&json!([{ "op": "add", "path": "members", "value": [{ "value": admin }] }]));
    assert_eq!(weak.patch(&at, &add).unwrap().status, 403);
    // The last administrator stays, whoever wants otherwise.
    for change in [json!({"state": "suspended"}), json!({"role": "member"})] {
        let reply = api.patch(&format!("/v1/people/{admin}"), &change).unwrap();
        assert_eq!(reply.status, 409, "{change}");
    }
    assert_eq!(api.delete(&format!("/v1/people/{admin}")).unwrap().status, 409);
}

#[test]
fn an_administrator_keeps_people_and_groups_in_the_browser() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    for name in ["mina", "joon"] {
        api.post("/scim/v2/Users", &user(&format!("{name}@example.org"))).unwrap().ok().unwrap();
    }
    let browser = Browser::open(1280, 900, "en").unwrap();
    browser.go(&stack.link().unwrap()).unwrap();
    browser.fill("set-password", PASSWORD).unwrap();
    browser.click("set-password-submit").unwrap();
    browser.click("nav-people").unwrap();
    let row =
        |hook: &str| format!("[data-test=\"person-mina@example.org\"] [data-test=\"{hook}\"]");
    browser.find("person-mina@example.org").unwrap();
    browser.click_css(&row("person-suspend")).unwrap();
    browser.click("confirm-yes").unwrap();
    browser.find_css(&row("person-restore")).unwrap();
    assert_eq!(tokens(&stack, "mina@example.org").0, 401);
    browser.click_css(&row("person-restore")).unwrap();
    browser.click("confirm-yes").unwrap();
    browser.find_css(&row("person-suspend")).unwrap();
    assert_eq!(tokens(&stack, "mina@example.org").0, 200);
    browser.fill("people-search", "joon").unwrap();
    browser
        .until(
            "only who was looked for",
            "return document.querySelectorAll('[data-test^=\"person-\"][data-state]').length === 1",
        )
        .unwrap();
    browser.click("tab-groups").unwrap();
    browser.click("group-new").unwrap();
    browser.fill("group-name", "Auditors").unwrap();
    browser.fill("grant-action-0", "audit.read").unwrap();
    browser.click("group-save").unwrap();
    browser.find("group-item-Auditors").unwrap();
    let of_group =
        |hook: &str| format!("[data-test=\"group-item-Auditors\"] [data-test=\"{hook}\"]");
    browser.click_css(&of_group("group-members")).unwrap();
    let people = api.get("/v1/people?email=mina@").unwrap().ok().unwrap();
    browser.choose("member-add", people["items"][0]["id"].as_str().unwrap()).unwrap();
    browser.click("member-take").unwrap();
    browser.find("member-remove-mina@example.org").unwrap();
    let token = tokens(&stack, "mina@example.org").1.unwrap();
    assert_eq!(stack.stranger().bearer(&token).get("/v1/audit").unwrap().status, 200);
    browser.press("\u{e00c}").unwrap();
    browser.click("tab-people").unwrap();
    browser.fill("people-search", "").unwrap();
    let joon =
        |hook: &str| format!("[data-test=\"person-joon@example.org\"] [data-test=\"{hook}\"]");
    browser.find_css(&joon("person-export")).unwrap();
    browser.click_css(&joon("person-remove")).unwrap();
    browser.click("remove-texts").unwrap();
    browser.fill("remove-typed", "joon@example.org").unwrap();
    browser.click("confirm-yes").unwrap();
    let gone = "return !document.querySelector('[data-test=\"person-joon@example.org\"]')";
    browser.until("nobody of this name", gone).unwrap();
    let found = api.get("/v1/people?email=joon@").unwrap().ok().unwrap();
    assert_eq!(found["items"], json!([]));
    assert_eq!(browser.complaints().unwrap(), Vec::<String>::new());
}

#[test]
fn somebody_removes_their_own_account_in_the_browser() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    stack.api().post("/scim/v2/Users", &user("mina@example.org")).unwrap().ok().unwrap();
    let browser = Browser::open(390, 844, "ko").unwrap();
    browser.go(&format!("{}/#/account", stack.stranger().origin())).unwrap();
    browser.fill("sign-in-email", "mina@example.org").unwrap();
    browser.fill("sign-in-password", PASSWORD).unwrap();
    browser.click("sign-in-submit").unwrap();
    browser.find("own-export").unwrap();
    browser.click("own-remove").unwrap();
    browser.click_css("dialog [data-test=\"again-password\"]").unwrap();
    browser.press(PASSWORD).unwrap();
    browser.fill("remove-typed", "mina@example.org").unwrap();
    browser.click("confirm-yes").unwrap();
    browser.find("sign-in-email").unwrap();
    assert_eq!(tokens(&stack, "mina@example.org").0, 401);
    assert_eq!(browser.complaints().unwrap(), Vec::<String>::new());
}

fn url_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
