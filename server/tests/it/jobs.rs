//! Jobs through the real doors: by HTTP, by the command line, by the console, and across a crash.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Browser, Http, Stack, within};

use crate::{binary, launch};

fn mail(subject: &str) -> String {
    json!({"to": "ops@example.com", "subject": subject, "body": "hello"}).to_string()
}

fn enqueue(api: &Http, body: &Value) -> String {
    let enqueued = api.post("/v1/jobs", body).unwrap();
    assert_eq!(enqueued.status, 201);
    enqueued.ok().unwrap()["id"].as_str().unwrap().to_owned()
}

fn until(api: &Http, id: &str, state: &str) -> Value {
    within(Duration::from_secs(20), state, || {
        let detail = api.get(&format!("/v1/jobs/{id}"))?.ok()?;
        Ok((detail["job"]["state"] == state).then_some(detail))
    })
    .unwrap()
}

fn deed(api: &Http, path: &str) -> u16 {
    api.post(path, &json!({})).unwrap().status
}

fn far() -> &'static str {
    "2100-01-01T00:00:00Z"
}

#[test]
fn a_mail_is_sent_as_a_job_once_and_a_wrong_one_is_dead_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    let wanted = json!({"kind": "mail.send", "payload": mail("one"), "key": "order-7"});
    let id = enqueue(&api, &wanted);
    let detail = until(&api, &id, "done");
    assert_eq!(detail["attempts"][0]["outcome"], "done");
    let again = api.post("/v1/jobs", &wanted).unwrap().ok().unwrap();
    assert_eq!(again, json!({"id": id, "repeated": true}));
    let mails = api.all("/v1/messages").unwrap();
    assert_eq!((mails.len(), &mails[0]["subject"]), (1, &json!("one")));

    let wrong = enqueue(&api, &json!({"kind": "mail.send", "payload": "{\"to\": 3}"}));
    let detail = until(&api, &wrong, "dead");
    let reason = detail["job"]["last_error"].as_str().unwrap();
    assert!(reason.starts_with("the payload cannot be read"), "{reason}");
    let list = api.get("/v1/jobs?state=dead").unwrap().ok().unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(deed(&api, &format!("/v1/jobs/{wrong}/retry")), 204);
    let detail = until(&api, &wrong, "dead");
    assert_eq!(detail["job"]["attempts"], 2);
    assert_eq!(deed(&api, &format!("/v1/jobs/{wrong}/discard")), 204);
    assert_eq!(deed(&api, &format!("/v1/jobs/{id}/retry")), 409, "it is done");
    for (body, status) in [
        (json!({"kind": "jobs.forget"}), 422),
        (json!({"kind": "mail.send", "priority": "first"}), 422),
        (json!({"kind": "mail.send", "run_at": "tomorrow"}), 422),
        (json!({"kind": "mail.send", "wish": 1}), 422),
    ] {
        assert_eq!(api.post("/v1/jobs", &body).unwrap().status, status, "{body}");
    }
    assert_eq!(api.get("/v1/jobs?state=lost").unwrap().status, 422);
    assert_eq!(api.get("/v1/jobs/none").unwrap().status, 404);
    let audit = api.all("/v1/audit").unwrap();
    assert!(audit.iter().any(|entry| entry["action"] == "jobs.write"), "{audit:?}");
}

#[test]
fn delayed_jobs_and_paused_queues_survive_a_crash_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    assert_eq!(deed(&api, "/v1/job-queues/mails/pause"), 204);
    let held = enqueue(&api, &json!({"kind": "mail.send", "payload": mail("held")}));
    let delayed =
        enqueue(&api, &json!({"kind": "mail.send", "payload": mail("later"), "run_at": far()}));
    let cancelled =
        enqueue(&api, &json!({"kind": "mail.send", "payload": mail("never"), "run_at": far()}));
    let answer = api.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).unwrap();
    assert_eq!(answer.ok().unwrap(), json!({"outcome": "cancelled"}));
    stack.kill().unwrap();

    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    let overview = api.get("/v1/jobs-overview").unwrap().ok().unwrap();
    let queues = overview["queues"].as_array().unwrap();
    let mails = queues.iter().find(|queue| queue["name"] == "mails").unwrap();
    assert_eq!((&mails["state"], &mails["ready"]), (&json!("paused"), &json!(1)));
    assert_eq!(overview["kinds"], json!(["mail.send"]));
    assert_eq!(overview["states"]["scheduled"], 1);
    assert_eq!(deed(&api, "/v1/job-queues/mails/resume"), 204);
    until(&api, &held, "done");
    assert_eq!(deed(&api, &format!("/v1/jobs/{delayed}/run-now")), 204);
    until(&api, &delayed, "done");
    until(&api, &cancelled, "cancelled");
    assert_eq!(api.all("/v1/messages").unwrap().len(), 2);
}

#[test]
fn schedules_are_made_paused_and_ended_and_the_servers_own_stays() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    let new = json!({
        "name": "morning",
        "kind": "mail.send",
        "cron": "0 9 * * mon-fri",
        "zone": "Asia/Seoul",
        "payload": mail("good morning"),
        "missed": "skip",
    });
    let made = api.post("/v1/job-schedules", &new).unwrap();
    assert_eq!(made.status, 201);
    let next = made.ok().unwrap()["next"].as_str().unwrap().to_owned();
    assert!(next.contains("T00:00:00"), "09:00 in Seoul is midnight in UTC: {next}");
    assert_eq!(api.post("/v1/job-schedules", &new).unwrap().status, 409);
    for (field, value) in [("cron", "0 25 * * *"), ("zone", "Mars/Olympus"), ("name", "Ü")] {
        let mut wrong = new.clone();
        wrong["name"] = json!("other");
        wrong[field] = json!(value);
        assert_eq!(api.post("/v1/job-schedules", &wrong).unwrap().status, 422, "{field}");
    }
    let paused = api.post("/v1/job-schedules/morning/pause", &json!({})).unwrap().ok().unwrap();
    assert_eq!((&paused["paused"], &paused["next"]), (&json!(true), &Value::Null));
    let resumed = api.post("/v1/job-schedules/morning/resume", &json!({})).unwrap().ok().unwrap();
    assert_eq!(resumed["next"], json!(next));
    let names: Vec<Value> = api.all("/v1/job-schedules").unwrap();
    let names: Vec<&str> = names.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["devices-roll-up", "jobs-forget", "morning"]);
    assert_eq!(api.delete("/v1/job-schedules/jobs-forget").unwrap().status, 409);
    assert_eq!(api.delete("/v1/job-schedules/morning").unwrap().status, 204);
    assert_eq!(api.delete("/v1/job-schedules/morning").unwrap().status, 404);
}

fn madang(stack: &Stack, key: &str, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(binary())
        .arg("jobs")
        .args(arguments)
        .env("MADANG__CLIENT__URL", format!("http://{}", stack.http_address()))
        .env("MADANG__CLIENT__KEY", key)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn the_command_line_lists_shows_and_changes_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    let id = enqueue(&api, &json!({"kind": "mail.send", "payload": mail("x"), "run_at": far()}));
    let run = |arguments: &[&str]| {
        let (is_fine, said) = madang(&stack, stack.token(), arguments);
        assert!(is_fine, "{arguments:?}: {said}");
        said
    };
    let list = run(&["list", "--state", "scheduled"]);
    assert!(list.starts_with("id\tstate\tkind") && list.contains(&id), "{list}");
    assert!(run(&["show", &id]).contains("\"kind\": \"mail.send\""));
    assert_eq!(run(&["pause", "mails"]), "done\n");
    assert!(run(&["queues"]).contains("mails\tpaused\t0"));
    assert_eq!(run(&["resume", "mails"]), "done\n");
    assert_eq!(run(&["cancel", &id]), "cancelled\n");
    assert_eq!(run(&["retry", &id]), "done\n");
    until(&api, &id, "done");
    assert!(run(&["schedules"]).contains("jobs-forget"));
    let (is_fine, said) = madang(&stack, stack.token(), &["run", &id]);
    assert!(!is_fine && said.contains("409") && said.contains("cannot be run now"), "{said}");
    let (is_fine, said) = madang(&stack, "wrong.key", &["list"]);
    assert!(!is_fine && said.contains("401"), "{said}");
}

#[test]
fn the_console_shows_jobs_and_does_to_them_what_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    for number in 0..3 {
        enqueue(&api, &json!({"kind": "mail.send", "payload": mail(&number.to_string())}));
    }
    let dead = enqueue(&api, &json!({"kind": "mail.send", "payload": "{}"}));
    until(&api, &dead, "dead");
    enqueue(&api, &json!({"kind": "mail.send", "payload": mail("later"), "run_at": far()}));

    let browser = Browser::open(1280, 900, "en-US").unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jobs");
    let look = |name: &str| browser.screenshot(&shots.join(format!("{name}.png"))).unwrap();
    let rows = |count: usize| {
        let script = format!(
            "return document.querySelectorAll('[data-test=\"jobs-list\"] tbody tr').length === {count}"
        );
        browser.until(&format!("{count} jobs in the list"), &script).unwrap();
    };
    let choose = |hook: &str, value: &str| {
        let script = format!(
            "const select = document.querySelector('[data-test=\"{hook}\"]'); select.value = '{value}'; \
             select.dispatchEvent(new Event('change', {{ bubbles: true }}));"
        );
        browser.script(&script).unwrap();
    };
    browser.go(&stack.link().unwrap()).unwrap();
    browser.click("set-password-skip").unwrap();
    browser.click("nav-jobs").unwrap();
    browser.find("jobs-list").unwrap();
    look("1-list");
    choose("jobs-state", "dead");
    rows(1);
    browser.click("job-show").unwrap();
    browser.find("job-attempts").unwrap();
    assert!(browser.text("job-error").unwrap().starts_with("the payload cannot be read"));
    look("2-details");
    browser.keys("job-dialog", "\u{E00C}").unwrap();
    browser.click("job-discard").unwrap();
    browser.click("confirm-yes").unwrap();
    until(&api, &dead, "discarded");
    choose("jobs-state", "scheduled");
    rows(1);
    browser.click("job-run").unwrap();
    within(Duration::from_secs(20), "the mail that was to be later", || {
        Ok((stack.api().all("/v1/messages")?.len() == 4).then_some(()))
    })
    .unwrap();

    browser.click("tab-schedules").unwrap();
    browser.click("schedule-new").unwrap();
    browser.fill("schedule-name", "morning").unwrap();
    browser.fill("schedule-cron", "0 9 * * *").unwrap();
    browser.click("schedule-save").unwrap();
    browser.find("schedule-morning").unwrap();
    look("3-schedules");
    browser.click("tab-queues").unwrap();
    browser.find("queue-mails").unwrap();
    let script = "document.querySelector('[data-test=\"queue-mails\"] [data-test=\"queue-switch\"]').click();";
    browser.script(script).unwrap();
    let paused =
        "return document.querySelector('[data-test=\"queue-mails\"]')?.dataset.state === 'paused'";
    browser.until("a paused queue", paused).unwrap();

    browser.script("localStorage.setItem('madang.language', 'ko'); localStorage.setItem('madang.theme', 'dark'); location.reload();").unwrap();
    browser.find("queue-mails").unwrap();
    look("4-queues-ko-dark");
    browser.click("tab-jobs").unwrap();
    browser.find("jobs-list").unwrap();
    browser.resize(390, 844).unwrap();
    look("5-list-ko-phone");
    let complaints = browser.complaints().unwrap();
    assert!(complaints.is_empty(), "{complaints:?}");
}
