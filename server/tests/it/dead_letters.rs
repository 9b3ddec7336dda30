//! What could not be handled, through the real doors: mended, replayed, there once.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Browser, Http, Stack, within};

use crate::launch;

fn only(stack: &Stack, source: &str) -> anyhow::Result<Option<Value>> {
    let page = stack.api().get(&format!("/v1/dead-letters?source={source}"))?.ok()?;
    Ok(page["items"].as_array().and_then(|items| items.first().cloned()))
}

fn rule(api: &Http) {
    let rule = json!({
        "name": "Any wind",
        "sensor": "wind",
        "device": "roof-1",
        "conditions": [{"value": "speed", "ranges": [{"min": 0, "max": null}]}],
        "cooldown_seconds": 0,
        "actions": [{"type": "email", "to": "ops@example.com"}],
    });
    api.post("/v1/rules", &rule).unwrap().ok().unwrap();
}

fn sensor(api: &Http) {
    let sensor = json!({"name": "wind", "values": [{"name": "speed", "unit": "m/s"}]});
    api.post("/v1/sensors", &sensor).unwrap().ok().unwrap();
}

fn device(api: &Http, name: &str) {
    let device = json!({"name": name, "sensors": ["wind"]});
    api.post("/v1/devices", &device).unwrap().ok().unwrap();
}

/// A client that may send readings and register nothing.
fn gateway(stack: &Stack) -> Http {
    let grants = json!([{"action": "readings.publish", "resource": "*"}]);
    let key = stack.api().post("/v1/keys", &json!({"label": "gateway", "grants": grants}));
    let key = key.unwrap().ok().unwrap();
    stack.stranger().bearer(key["token"].as_str().unwrap())
}

fn reading(hour: u32) -> Value {
    let time = format!("2013-01-01T{hour:02}:00:00Z");
    json!({"sensor": "wind", "time": time, "values": {"speed": 7}})
}

/// A stack where the alert of each of these hours asks for a mail, and one fits.
fn with_room_for_one_mail(folder: &tempfile::TempDir, hours: std::ops::Range<u32>) -> Stack {
    let narrow = launch(folder)
        .environment("MADANG__DELIVERY__UNSENT_MAX", "1")
        .environment("MADANG__RELATIONAL__COMMAND_ATTEMPTS_MAX", "1");
    let stack = narrow.start().unwrap();
    let api = stack.api();
    sensor(&api);
    device(&api, "roof-1");
    rule(&api);
    for hour in hours {
        api.post("/v1/devices/roof-1/readings", &reading(hour)).unwrap().ok().unwrap();
    }
    stack
}

#[test]
fn a_refused_reading_is_replayed_after_its_device_was_registered_and_raises_its_alert_once() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let api = stack.api();
    sensor(&api);
    let gateway = gateway(&stack);
    let sent = gateway.post("/v1/devices/roof-1/readings", &reading(6)).unwrap().ok().unwrap();
    assert_eq!(sent["accepted"], 0, "{sent}");

    let letter = only(&stack, "reading").unwrap().unwrap();
    assert_eq!((&letter["from"], &letter["topic"]), (&json!("gateway"), &json!("data/roof-1")));
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap());
    device(&api, "roof-1");
    rule(&api);
    let once = api.header("idempotency-key", "\"again\"");
    for _ in 0..2 {
        let replayed = once.post(&format!("{path}/replay"), &json!({})).unwrap();
        assert_eq!(replayed.ok().unwrap(), json!({"outcome": "handled"}));
    }
    assert_eq!(stack.api().get(&path).unwrap().status, 404);
    within(Duration::from_secs(20), "the alert", || {
        Ok((stack.api().all("/v1/alerts")?.len() == 1).then_some(()))
    })
    .unwrap();
    within(Duration::from_secs(20), "its mail", || {
        Ok((stack.api().all("/v1/messages")?.len() == 1).then_some(()))
    })
    .unwrap();
    within(Duration::from_secs(20), "its row", || {
        Ok((stack.api().sql_number("SELECT count(*) FROM readings")? == 1).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_mail_that_found_no_room_is_a_dead_command_and_is_sent_once_after_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let stack = with_room_for_one_mail(&folder, 6..8);
    let letter =
        within(Duration::from_secs(20), "a dead command", || only(&stack, "command")).unwrap();
    assert_eq!((&letter["handler"], &letter["attempts"]), (&json!("mail.send"), &json!(1)));
    assert_eq!(stack.api().all("/v1/messages").unwrap().len(), 1);
    assert_eq!(stack.api().all("/v1/alerts").unwrap().len(), 2, "the alert stands");
    stack.kill().unwrap();

    let stack = launch(&folder).start().unwrap();
    let kept = only(&stack, "command").unwrap().unwrap();
    assert_eq!(kept, letter, "it survives a crash");
    let path = format!("/v1/dead-letters/{}/replay", letter["id"].as_str().unwrap());
    let replayed = stack.api().post(&path, &json!({})).unwrap().ok().unwrap();
    assert_eq!(replayed, json!({"outcome": "waiting"}));
    // Acknowledged means on disk.
    stack.kill().unwrap();

    let stack = launch(&folder).start().unwrap();
    let mails = within(Duration::from_secs(20), "the second mail", || {
        let mails = stack.api().all("/v1/messages")?;
        Ok((mails.len() == 2).then_some(mails))
    })
    .unwrap();
    assert_ne!(mails[0]["message_id"], mails[1]["message_id"]);
    assert_eq!(only(&stack, "command").unwrap(), None);
    assert_eq!(stack.api().post(&path, &json!({})).unwrap().status, 404);
}

#[test]
fn the_console_replays_one_and_all_and_discards_after_asking() {
    let folder = tempfile::tempdir().unwrap();
    let stack = with_room_for_one_mail(&folder, 6..9);
    let api = stack.api();
    let letters_become = |count: usize| {
        within(Duration::from_secs(20), "dead letters", || {
            Ok((stack.api().all("/v1/dead-letters")?.len() == count).then_some(()))
        })
        .unwrap();
    };
    letters_become(2);
    let gateway = gateway(&stack);
    for hour in 6..9 {
        let path = format!("/v1/devices/roof-{hour}/readings");
        gateway.post(&path, &reading(hour)).unwrap().ok().unwrap();
    }
    gateway.post("/v1/devices/roof-1/readings", &json!([7])).unwrap().ok().unwrap();
    letters_become(6);

    let browser = Browser::open(1280, 900, "en-US").unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dead-letters");
    let look = |name: &str| browser.screenshot(&shots.join(format!("{name}.png"))).unwrap();
    let rows = |count: usize| {
        let script = format!(
            "return document.querySelectorAll('[data-test=\"letters-list\"] tbody tr').length === {count}"
        );
        browser.until(&format!("{count} letters in the list"), &script).unwrap();
    };
    browser.go(&stack.link().unwrap()).unwrap();
    browser.click("set-password-skip").unwrap();
    browser.find("count-dead-letters").unwrap();
    browser.click("nav-dead-letters").unwrap();
    rows(6);
    look("1-list");

    // One that fails again says why and stays.
    browser.click("letter-replay").unwrap();
    browser.until("a complaint", "return !!document.querySelector('.toast.bad')").unwrap();
    rows(6);
    browser.click("letter-show").unwrap();
    browser.find("letter-payload").unwrap();
    assert!(browser.text("letter-reason").unwrap().starts_with("the payload is not a reading"));
    look("2-details");
    browser.keys("letter-dialog", "\u{E00C}").unwrap();

    // Mended: its device is there now.
    device(&api, "roof-8");
    let script = "const rows = [...document.querySelectorAll('[data-test=\"letters-list\"] tbody tr')]; \
         rows.find((row) => row.innerText.includes('roof-8')).querySelector('[data-test=\"letter-replay\"]').click();";
    browser.script(script).unwrap();
    rows(5);
    browser.click("letter-discard").unwrap();
    browser.find("confirm").unwrap();
    look("3-discard");
    browser.click("confirm-yes").unwrap();
    rows(4);

    browser.fill("letters-reason", "ROOF-7").unwrap();
    browser.click("letters-search").unwrap();
    rows(1);
    device(&api, "roof-7");
    browser.click("letters-replay-all").unwrap();
    browser.click("confirm-yes").unwrap();
    browser
        .until("nothing more", "return !document.querySelector('[data-test=\"letters-list\"]')")
        .unwrap();
    within(Duration::from_secs(20), "their readings", || {
        let count =
            stack.api().sql_number("SELECT count(*) FROM readings WHERE device <> 'roof-1'")?;
        Ok((count == 2).then_some(()))
    })
    .unwrap();

    browser.script("localStorage.setItem('madang.language', 'ko'); localStorage.setItem('madang.theme', 'dark'); location.reload();").unwrap();
    rows(4 - 1);
    look("4-list-ko-dark");
    browser.click("letter-show").unwrap();
    browser.find("letter-payload").unwrap();
    look("5-details-ko-dark");
    browser.resize(390, 844).unwrap();
    look("6-details-ko-phone");
    browser.keys("letter-dialog", "\u{E00C}").unwrap();
    browser
        .until("a closed dialog", "scrollTo(0, 0); return !document.querySelector('dialog')")
        .unwrap();
    look("7-list-ko-phone");
    let complaints = browser.complaints().unwrap();
    assert!(complaints.is_empty(), "{complaints:?}");
}
