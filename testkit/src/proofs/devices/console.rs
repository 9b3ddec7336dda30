use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};
use crate::wait::within;

const PASSWORD: &str = "correct horse battery staple";
const ENTER: &str = "\u{E007}";
const SPACE: &str = " ";
/// Where everybody who works with devices goes.
const PAGES: [(&str, &str, &str); 9] = [
    ("overview", "/", "live-state"),
    ("map", "/map?device=roof-1", "panel-device"),
    ("dashboards", "/dashboards", "boards-list"),
    ("dashboard", "/dashboards/roofs", "board-page"),
    ("rules", "/rules", "rules-list"),
    ("alerts", "/rules/alerts", "alerts-list"),
    ("devices", "/devices", "devices-list"),
    ("device", "/device/roof-1", "device-page"),
    ("sql", "/sql", "sql-editor"),
];
/// Beside those, for administrators.
const MORE_PAGES: [(&str, &str, &str); 3] = [
    ("people", "/people", "people-list"),
    ("invitations", "/people/invitations", "invite-email"),
    ("groups", "/people/groups", "group-new"),
];
/// How long what was acknowledged may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);
/// What only an administrator is shown.
const OF_ADMINISTRATORS: [&str; 6] =
    ["nav-comments", "nav-jobs", "nav-dead-letters", "nav-sockets", "nav-kv", "nav-people"];

/// Who builds the platform does it all by hand in Chromium: sensor types, devices, keys, rules, dashboards, commands, dead letters and
/// people. Who was invited sees what comes of it and handles an alert. Then a dashboard and an alert by the keyboard alone, and every page as wide as a phone,
/// in Korean and dark.
pub fn console(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let admin = Desk { stack: &stack, browser: Browser::open(1280, 1000, "en-US")?, ground };
    let invitation = build(&admin, &mut report)?;
    let member = Desk { stack: &stack, browser: Browser::open(1280, 1000, "en-US")?, ground };
    work(&member, &invitation, &mut report)?;
    by_keyboard(&member, &mut report)?;
    on_a_phone(&admin, &mut report)?;
    for (who, desk) in [("administrator", &admin), ("member", &member)] {
        let complaints = desk.browser.complaints()?;
        report.bound(
            complaints.is_empty(),
            format!("{} errors in the {who}'s browser {complaints:?}", complaints.len()),
        );
    }
    Ok(report)
}

/// A browser in front of a stack.
struct Desk<'a> {
    stack: &'a Stack,
    browser: Browser,
    ground: &'a Ground,
}

impl Desk<'_> {
    fn look(&self, name: &str) -> Result<()> {
        self.browser.screenshot(&self.ground.evidence.join(format!("console-{name}.png")))
    }

    fn go(&self, path: &str) -> Result<()> {
        self.browser.go(&format!("http://{}/#{path}", self.stack.http_address()))
    }

    /// Waits until so many elements fit.
    fn count(&self, css: &str, count: usize) -> Result<()> {
        let css = json!(css);
        let script = format!("return document.querySelectorAll({css}).length === {count}");
        self.browser.until(&format!("{count} of {css}"), &script)
    }
}

fn build(desk: &Desk, report: &mut Report) -> Result<String> {
    let browser = &desk.browser;
    browser.go(&desk.stack.link()?)?;
    browser.fill("set-password", PASSWORD)?;
    browser.click("set-password-submit")?;
    browser.find("nav-overview")?;

    register(desk)?;
    desk.look("1-devices")?;
    let (user, password) = key(browser)?;
    report.figure("administrator: a sensor type, an actuator, two devices and a key by hand");

    let address = desk.stack.mqtt_address();
    let mut device = MqttClient::connect(address, "roof-1", &user, &password)?;
    ensure!(device.subscribe("command/roof-1")? != 0x80, "the device may not hear commands");
    // Hour by hour until now, by the clock that the pages go by.
    let times = browser.script(
        "const now = Date.now(); return Array.from({length: 27}, (_, i) => new Date(now - (26 - i) * 3600000).toISOString())",
    )?;
    let time = |hour: u16| times[usize::from(hour)].as_str().unwrap_or_default();
    let publish = |device: &mut MqttClient, hour: u16, temp: f64| -> Result<()> {
        let reading = json!({"sensor": "climate", "time": time(hour), "values": {"temp": temp}});
        device.publish("data/roof-1", hour + 1, reading.to_string().as_bytes())?;
        device.puback().map(drop)
    };
    for hour in 0..24 {
        publish(&mut device, hour, 15.0 + f64::from(hour % 12))?;
    }
    within(PATIENCE, "rows", || {
        let found = desk.stack.api().sql_number("SELECT count(*) FROM readings")?;
        Ok((found == 24).then_some(()))
    })?;
    desk.go("/device/roof-1")?;
    browser.until(
        "24 points",
        "return document.querySelector('[data-test=\"chart-points\"]')?.dataset.count === '24'",
    )?;
    publish(&mut device, 24, 20.0)?;
    browser.until(
        "one more",
        "return document.querySelector('[data-test=\"chart-points\"]')?.dataset.count === '25'",
    )?;
    report.figure("a reading by MQTT is one more point of the open chart");

    browser.choose("command-pick", "0")?;
    browser.fill("command-pick-percent", "40")?;
    browser.click("command-send")?;
    let (topic, payload) = device.message()?;
    let command: Value = serde_json::from_slice(&payload)?;
    ensure!(topic == "command/roof-1" && command["values"]["percent"] == 40.0, "{command}");
    let answer = json!({"id": command["id"]}).to_string();
    device.publish("answer/roof-1", 100, answer.as_bytes())?;
    desk.count("[data-test=\"commands-list\"] [data-state=\"acknowledged\"]", 1)?;
    desk.look("2-device")?;
    report.figure("a command went to the device and its answer came to the page");

    rule(desk)?;
    publish(&mut device, 25, 35.0)?;
    // The page shows those that there are when it opens.
    within(PATIENCE, "the alert", || {
        Ok((!desk.stack.api().all("/v1/alerts")?.is_empty()).then_some(()))
    })?;
    browser.click("tab-alerts")?;
    desk.count("[data-test=\"alerts-list\"] [data-state=\"open\"]", 1)?;
    report.figure("a rule was tried on the past, kept, and raised its alert");

    dashboard(desk)?;
    publish(&mut device, 26, 21.0)?;
    browser.until(
        "a point of the open dashboard",
        "return document.querySelector('[data-test=\"chart-points\"]')?.dataset.count === '27'",
    )?;
    desk.look("4-dashboard")?;
    report.figure("a dashboard was made, and goes on with what comes in");

    device.publish("data/roof-1", 101, b"no reading")?;
    device.puback()?;
    browser.click("nav-dead-letters")?;
    browser.click("letter-discard")?;
    browser.click("confirm-yes")?;
    desk.count("[data-test=\"letters-list\"] tbody tr", 0)?;
    report.figure("a message that was no reading was found and discarded");

    desk.go("/people/invitations")?;
    browser.fill("invite-email", "member@example.org")?;
    browser.click("invite-submit")?;
    browser.text("invite-link")
}

fn register(desk: &Desk) -> Result<()> {
    let browser = &desk.browser;
    desk.go("/devices/sensors")?;
    browser.click("sensor-new")?;
    browser.fill("sensor-name", "climate")?;
    browser.fill("sensor-value-0", "temp")?;
    browser.click("sensor-roll-ups")?;
    browser.click("sensor-save")?;
    browser.until("the sensor type", "return document.querySelector('[data-test=\"sensors-list\"]')?.innerText.includes('climate')")?;
    browser.click("tab-actuators")?;
    browser.click("actuator-new")?;
    browser.fill("actuator-name", "valve")?;
    browser.fill("actuator-commands", "open percent\nclose")?;
    browser.click("actuator-save")?;
    desk.count("[data-test=\"actuators-list\"] > li", 1)?;
    browser.click("tab-devices")?;
    for (name, latitude) in [("roof-1", "37.56"), ("roof-2", "37.48")] {
        browser.click("device-new")?;
        browser.fill("device-name", name)?;
        browser.fill("device-latitude", latitude)?;
        browser.fill("device-longitude", "126.97")?;
        browser.fill("device-tags", "outdoor")?;
        browser.click("device-sensor-climate")?;
        browser.click("device-actuator-valve")?;
        browser.click("device-save")?;
        browser.find(&format!("device-{name}"))?;
    }
    Ok(())
}

/// The user and the password of a key for `roof-1`, which are shown once.
fn key(browser: &Browser) -> Result<(String, String)> {
    let row = "document.querySelector('[data-test=\"device-roof-1\"] [data-test=\"device-key\"]')";
    browser.script(&format!("{row}.click()"))?;
    let shown = (browser.text("key-user")?, browser.text("key-password")?);
    browser.click("key-done")?;
    Ok(shown)
}

fn rule(desk: &Desk) -> Result<()> {
    let browser = &desk.browser;
    browser.click("nav-rules")?;
    browser.click("rule-new")?;
    browser.fill("rule-name", "Heat")?;
    browser.choose("rule-sensor", "climate")?;
    browser.choose("rule-value", "temp")?;
    browser.fill("rule-min", "30")?;
    browser.fill("rule-email", "ops@example.org")?;
    browser.click("rule-dry-run")?;
    browser.find("dry-run-facts")?;
    let readings = browser.attribute("dry-run-facts", "data-readings")?.context("readings")?;
    ensure!(readings == "25", "the dry run looked at {readings} readings of 25");
    desk.look("3-rule")?;
    browser.click("rule-save")?;
    browser.find("rule-item-Heat").map(drop)
}

fn dashboard(desk: &Desk) -> Result<()> {
    let browser = &desk.browser;
    browser.click("nav-dashboards")?;
    browser.click("board-new")?;
    browser.fill("board-title", "Roofs")?;
    browser.click("board-make")?;
    browser.click("chart-add")?;
    browser.fill("line-device-0", "roof-1")?;
    browser.choose("line-value-0", "[\"climate\",\"temp\"]")?;
    browser.click("line-add")?;
    browser.fill("line-device-1", "roof-2")?;
    browser.choose("line-value-1", "[\"climate\",\"temp\"]")?;
    browser.choose("line-show-1", "max")?;
    browser.fill("line-label-1", "South roof")?;
    browser.click("chart-take")?;
    browser.find("chart")?;
    browser.click("board-save")?;
    browser.find("board-edit")?;
    desk.count("[data-test=\"board-chart\"] [data-test=\"chart\"]", 1)?;
    let written = desk.stack.api().get("/v1/dashboards/roofs")?.ok()?;
    let line = &written["document"]["charts"][0]["lines"][1];
    ensure!(line["label"] == "South roof" && line["show"] == "max", "{written}");
    Ok(())
}

fn work(desk: &Desk, invitation: &str, report: &mut Report) -> Result<()> {
    let browser = &desk.browser;
    browser.go(invitation)?;
    browser.fill("new-password", PASSWORD)?;
    browser.click("new-password-submit")?;
    browser.find("nav-overview")?;
    for hook in OF_ADMINISTRATORS {
        desk.count(&format!("[data-test=\"{hook}\"]"), 0)?;
    }
    for (name, path, hook) in PAGES {
        desk.go(path)?;
        browser.find(hook)?;
        let refused = browser.count("[role=\"alert\"]")?;
        ensure!(refused == 0, "the member is refused something on {name}");
    }
    desk.look("5-member-sql")?;
    let status = browser.script("return fetch('/v1/keys').then((answer) => answer.status)")?;
    ensure!(status == 403, "a member's browser asks for keys: {status}");
    report.figure(format!(
        "member: invited by a link, sees {} pages, is not shown {}, is refused keys",
        PAGES.len(),
        OF_ADMINISTRATORS.len()
    ));
    Ok(())
}

/// Not one click: the pages by their keys, the rest by the tabulator key, where the focus must be seen at every stop.
fn by_keyboard(desk: &Desk, report: &mut Report) -> Result<()> {
    let browser = &desk.browser;
    desk.go("/")?;
    browser.find("live-state")?;
    browser.press("gr")?;
    browser.tab_to("tab-alerts")?;
    browser.press(ENTER)?;
    browser.find("alerts-list")?;
    browser.tab_to("alert-acknowledge")?;
    browser.press(ENTER)?;
    desk.count("[data-test=\"alerts-list\"] [data-state=\"acknowledged\"]", 1)?;
    browser.tab_to("alert-why")?;
    browser.press(ENTER)?;
    browser.find("why-readings")?;
    browser.tab_to("alert-note")?;
    browser.press("opened a window")?;
    browser.press("\u{E00C}")?;
    desk.count("[data-test=\"why-dialog\"]", 0)?;
    browser.tab_to("alert-clear")?;
    browser.press(ENTER)?;
    desk.count("[data-test=\"alerts-list\"] [data-state=\"cleared\"]", 1)?;

    browser.script("document.activeElement.blur()")?;
    browser.press("gb")?;
    browser.tab_to("board-new")?;
    browser.press(ENTER)?;
    browser.tab_to("board-title")?;
    browser.press("By hand")?;
    browser.press(ENTER)?;
    browser.tab_to("chart-add")?;
    browser.press(SPACE)?;
    browser.tab_to("line-device-0")?;
    browser.press("roof-2")?;
    browser.tab_to("line-value-0")?;
    browser.press("climate")?;
    browser.tab_to("chart-take")?;
    browser.press(ENTER)?;
    desk.count("[data-test=\"board-charts\"] > li", 1)?;
    browser.tab_to("board-save")?;
    browser.press(ENTER)?;
    browser.find("board-edit")?;
    let written = desk.stack.api().get("/v1/dashboards/by-hand")?.ok()?;
    let line = &written["document"]["charts"][0]["lines"][0];
    report.bound(
        line["device"] == "roof-2" && line["value"] == "temp" && written["version"] == 2,
        "by the keyboard alone: an alert acknowledged, noted and cleared, a dashboard with a chart written",
    );
    desk.look("6-keyboard")
}

fn on_a_phone(desk: &Desk, report: &mut Report) -> Result<()> {
    const WIDTH: u32 = 390;
    let browser = &desk.browser;
    browser.phone(WIDTH, 844)?;
    let mut wide = Vec::new();
    for (language, theme) in [("en", "light"), ("ko", "dark")] {
        desk.go("/")?;
        browser.script(&format!("localStorage.setItem('madang.language', '{language}'); localStorage.setItem('madang.theme', '{theme}'); location.reload();"))?;
        browser.find("live-state")?;
        for (name, path, hook) in PAGES.into_iter().chain(MORE_PAGES) {
            desk.go(path)?;
            browser.find(hook)?;
            let widths = within(Duration::from_secs(10), "a page that has settled", || {
                let widths = browser.script(
                    "return [document.documentElement.scrollWidth, innerWidth, document.querySelectorAll('.loading').length]",
                )?;
                Ok((widths[2] == 0).then_some(widths))
            })?;
            desk.look(&format!("7-phone-{language}-{name}"))?;
            if widths[0] != WIDTH || widths[1] != WIDTH {
                let over = browser.script(&format!(
                    "return [...document.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > {WIDTH} && !e.closest('.scroll, nav, .leaflet-pane')) \
                     .map((e) => e.outerHTML.slice(0, 160) + ' ' + Math.round(e.getBoundingClientRect().right)).slice(0, 8)"
                ))?;
                wide.push(format!("{name} in {language} is {} wide: {over}", widths[0]));
            }
        }
        // What has no text says what it is.
        let mute = browser.script(
            "return [...document.querySelectorAll('button, a, input, select, textarea')].filter((e) => \
             !(e.innerText?.trim() || e.ariaLabel || e.title || e.labels?.length)).map((e) => e.outerHTML.slice(0, 120))",
        )?;
        ensure!(mute == json!([]), "there is nothing to say of {mute}");
    }
    ensure!(wide.is_empty(), "{wide:#?}");
    report.figure(format!(
        "{} pages fit a phone of {WIDTH} points, in English and light, in Korean and dark",
        PAGES.len() + MORE_PAGES.len()
    ));
    Ok(())
}
