use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Http;
use crate::stack::free_port;
use crate::wait::within;

/// Headless Chromium, driven through the W3C WebDriver protocol (<https://www.w3.org/TR/webdriver2/>).
pub struct Browser {
    driver: Child,
    api: Http,
    session: String,
    profile: TempDir,
}

const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const PATIENCE: Duration = Duration::from_secs(30);

impl Browser {
    pub fn open(width: u32, height: u32, language: &str) -> Result<Self> {
        let port = free_port()?;
        let driver = Command::new("/usr/bin/chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start chromedriver (Debian package chromium-driver)")?;
        let profile = tempfile::tempdir()?;
        let mut browser = Self {
            driver,
            api: Http::new(&format!("127.0.0.1:{port}")),
            session: String::new(),
            profile,
        };
        within(PATIENCE, "chromedriver", || Ok(browser.api.get("/status")?.ok().ok()))?;
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--lang={language}"),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", browser.profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            // Of authorities of a test.
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "binary": "/usr/bin/chromium",
                "args": arguments,
                "prefs": {
                    "intl.accept_languages": language,
                    // A page of one site has no cookies of another one.
                    "profile.block_third_party_cookies": true,
                    "profile.cookie_controls_mode": 1,
                },
            },
        }}});
        let answer = browser.api.post("/session", &wanted)?.ok()?;
        browser.session = answer["value"]["sessionId"].as_str().context("no session")?.to_owned();
        Ok(browser)
    }

    pub fn go(&self, url: &str) -> Result<()> {
        self.command("POST", "/url", &json!({ "url": url })).map(drop)
    }

    /// Waits for the element that a stable hook (`data-test`) names, and gives its id.
    pub fn find(&self, hook: &str) -> Result<String> {
        self.find_css(&hooked(hook))
    }

    pub fn find_css(&self, css: &str) -> Result<String> {
        within(PATIENCE, css, || {
            let found =
                self.command("POST", "/element", &json!({"using": "css selector", "value": css}))?;
            Ok(found[ELEMENT].as_str().map(str::to_owned))
        })
        .with_context(|| format!("the page shows: {}", self.page_text()))
    }

    /// How many elements fit now.
    pub fn count(&self, css: &str) -> Result<usize> {
        let all =
            self.command("POST", "/elements", &json!({"using": "css selector", "value": css}))?;
        Ok(all.as_array().map_or(0, Vec::len))
    }

    pub fn click(&self, hook: &str) -> Result<()> {
        self.click_css(&hooked(hook))
    }

    pub fn click_css(&self, css: &str) -> Result<()> {
        self.act(css, &[("click", json!({}))])
    }

    /// Replaces what a field holds.
    pub fn fill(&self, hook: &str, text: &str) -> Result<()> {
        self.act(&hooked(hook), &[("clear", json!({})), ("value", json!({ "text": text }))])
    }

    /// Types keys where the focus is; WebDriver's code points name special keys.
    pub fn keys(&self, hook: &str, keys: &str) -> Result<()> {
        self.act(&hooked(hook), &[("value", json!({ "text": keys }))])
    }

    /// Does something with an element, waiting until a person could: until it is shown, lies on top, and is no longer redrawn.
    fn act(&self, css: &str, steps: &[(&str, Value)]) -> Result<()> {
        within(PATIENCE, css, || {
            let element = self.find_css(css)?;
            self.uncover(&element)?;
            for (step, body) in steps {
                let path = format!("/element/{element}/{step}");
                match self.answer("POST", &path, body)? {
                    Ok(_) => {}
                    Err(refusal) if refusal.is_too_early() => bail!("{step}: {}", refusal.message),
                    Err(refusal) => return Ok(Some(Err(anyhow!("{step}: {}", refusal.message)))),
                }
            }
            Ok(Some(Ok(())))
        })?
        .with_context(|| css.to_owned())
    }

    /// Scrolls what a bar at an edge of the page may lie upon to the middle, as somebody would who cannot see it whole. At each try:
    /// what came into the page above it may have moved it since.
    fn uncover(&self, element: &str) -> Result<()> {
        let script = "const e = arguments[0], r = e.getBoundingClientRect(); \
             const top = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2); \
             if (!top || !(e.contains(top) || top.contains(e))) e.scrollIntoView({ block: 'center' });";
        let body = json!({"script": script, "args": [{ELEMENT: element}]});
        self.command("POST", "/execute/sync", &body).map(drop)
    }

    /// Chooses in a `<select>`.
    pub fn choose(&self, hook: &str, value: &str) -> Result<()> {
        self.find(hook)?;
        let (hook, value) = (json!(format!("[data-test=\"{hook}\"]")), json!(value));
        let script = format!(
            "const s = document.querySelector({hook}); s.value = {value}; \
             s.dispatchEvent(new Event('change', {{bubbles: true}})); return s.value === {value}"
        );
        self.until("a choice", &script)
    }

    /// Presses and lets go each key, wherever the focus is; WebDriver's code points name special keys.
    pub fn press(&self, keys: &str) -> Result<()> {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        let keyboard = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.command("POST", "/actions", &keyboard).map(drop)
    }

    /// Goes on by the tabulator key until something has the focus; an error when the focus cannot be seen on the way, or never comes there.
    pub fn tab_to(&self, hook: &str) -> Result<()> {
        const STOPS_MAX: usize = 150;
        self.find(hook)?;
        for _ in 0..STOPS_MAX {
            self.press("\u{E004}")?;
            let focus = self.script(
                "const e = document.activeElement; const s = getComputedStyle(e); \
                 return {hook: e.dataset.test ?? '', text: e.outerHTML.slice(0, 200), \
                 seen: e === document.body || e.id === 'main' || s.outlineStyle !== 'none' || s.boxShadow !== 'none'}",
            )?;
            ensure!(focus["seen"] == true, "the focus cannot be seen on {}", focus["text"]);
            if focus["hook"] == hook {
                return Ok(());
            }
        }
        bail!("the tabulator key never comes to {hook}: {}", self.page_text())
    }

    /// Shows pages as a phone does.
    pub fn phone(&self, width: u32, height: u32) -> Result<()> {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)
    }

    pub fn text(&self, hook: &str) -> Result<String> {
        let element = self.find(hook)?;
        let text = self.command("GET", &format!("/element/{element}/text"), &Value::Null)?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    pub fn attribute(&self, hook: &str, name: &str) -> Result<Option<String>> {
        let element = self.find(hook)?;
        let path = format!("/element/{element}/attribute/{name}");
        Ok(self.command("GET", &path, &Value::Null)?.as_str().map(str::to_owned))
    }

    /// Runs a script in the page and gives what it returns.
    pub fn script(&self, script: &str) -> Result<Value> {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until a script gives true.
    pub fn until(&self, what: &str, script: &str) -> Result<()> {
        within(PATIENCE, what, || Ok((self.script(script)? == Value::Bool(true)).then_some(())))
            .with_context(|| format!("the page shows: {}", self.page_text()))
    }

    /// Takes the network away from the page, or gives it back.
    pub fn connect(&self, is_connected: bool) -> Result<()> {
        let conditions = json!({"network_conditions": {
            "offline": !is_connected, "latency": 0, "throughput": 100_000_000,
        }});
        self.command("POST", "/chromium/network_conditions", &conditions).map(drop)
    }

    /// Makes the machine and the network of the page slow, and forgets what it has in its cache, as on a phone at its first
    /// visit: that many times slower, so many milliseconds from request to answer, so many bytes a second.
    pub fn slow(&self, times: u32, millis: u32, bytes_per_second: u32) -> Result<()> {
        self.devtools("Emulation.setCPUThrottlingRate", &json!({ "rate": times }))?;
        self.devtools("Network.enable", &json!({}))?;
        self.devtools("Network.clearBrowserCache", &json!({}))?;
        let network = json!({
            "offline": false, "latency": millis,
            "downloadThroughput": bytes_per_second, "uploadThroughput": bytes_per_second,
        });
        self.devtools("Network.emulateNetworkConditions", &network)
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<()> {
        let body = json!({"cmd": command, "params": parameters});
        self.command("POST", "/goog/cdp/execute", &body).map(drop)
    }

    /// Gives it an authenticator of its own that keeps passkeys and takes whoever is there for their owner
    /// (Web Authentication Level 3, section 11); gives its id.
    pub fn authenticator(&self) -> Result<String> {
        let wanted = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true,
            "hasUserVerification": true, "isUserConsenting": true, "isUserVerified": true,
        });
        let id = self.command("POST", "/webauthn/authenticator", &wanted)?;
        id.as_str().map(str::to_owned).context("no authenticator")
    }

    /// Whether it takes whoever is there for their owner from now on.
    pub fn verifies(&self, authenticator: &str, is_owner: bool) -> Result<()> {
        let path = format!("/webauthn/authenticator/{authenticator}/uv");
        self.command("POST", &path, &json!({ "isUserVerified": is_owner })).map(drop)
    }

    /// What it keeps.
    pub fn credentials(&self, authenticator: &str) -> Result<Vec<Value>> {
        let path = format!("/webauthn/authenticator/{authenticator}/credentials");
        let all = self.command("GET", &path, &Value::Null)?;
        Ok(all.as_array().context("no credentials")?.clone())
    }

    /// Has it keep this one and no other.
    pub fn replace_credential(&self, authenticator: &str, credential: &Value) -> Result<()> {
        let path = format!("/webauthn/authenticator/{authenticator}/credential");
        self.command("DELETE", &format!("{path}s"), &Value::Null)?;
        self.command("POST", &path, credential).map(drop)
    }

    /// The windows of this browser, in the order in which they were opened.
    pub fn windows(&self) -> Result<Vec<String>> {
        let all = self.command("GET", "/window/handles", &Value::Null)?;
        let all = all.as_array().context("no windows")?;
        Ok(all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
    }

    /// Goes on in another window.
    pub fn switch(&self, window: &str) -> Result<()> {
        self.command("POST", "/window", &json!({ "handle": window })).map(drop)
    }

    /// Makes the window another size, as of a phone.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let rectangle = json!({ "width": width, "height": height });
        self.command("POST", "/window/rect", &rectangle).map(drop)
    }

    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let image = self.command("GET", "/screenshot", &Value::Null)?;
        let bytes = STANDARD.decode(image.as_str().context("no screenshot")?)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, bytes)?)
    }

    /// Errors that the page wrote to its console, refused requests apart.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.command("POST", "/se/log", &json!({"type": "browser"}))?;
        Ok(log
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry["level"] == "SEVERE" && entry["source"] != "network")
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    fn page_text(&self) -> String {
        let text = self.script("return location.href + '\\n' + document.body.innerText");
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.answer(method, path, body)?.map_err(|refusal| anyhow!("{path}: {}", refusal.message))
    }

    fn answer(&self, method: &str, path: &str, body: &Value) -> Result<Result<Value, Refusal>> {
        let path = format!("/session/{}{path}", self.session);
        let reply = match method {
            "GET" => self.api.get(&path)?,
            "DELETE" => self.api.delete(&path)?,
            _ => self.api.post(&path, body)?,
        };
        let mut value = reply.json()?["value"].take();
        if reply.status == 200 {
            return Ok(Ok(value));
        }
        let mut text = |name: &str| value[name].take().as_str().unwrap_or("failed").to_owned();
        Ok(Err(Refusal { error: text("error"), message: text("message") }))
    }
}

fn hooked(hook: &str) -> String {
    format!("[data-test=\"{hook}\"]")
}

/// An error of the WebDriver protocol, which names it.
struct Refusal {
    error: String,
    message: String,
}

impl Refusal {
    fn is_too_early(&self) -> bool {
        const TOO_EARLY: [&str; 3] =
            ["element not interactable", "element click intercepted", "stale element reference"];
        TOO_EARLY.contains(&self.error.as_str())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            self.command("DELETE", "", &Value::Null).ok();
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
