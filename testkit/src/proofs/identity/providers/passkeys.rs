use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PASSWORD, Tried, launch, sign_up};
use crate::browser::Browser;
use crate::proofs::{Ground, Report};
use crate::stack::free_port;
use crate::wait::within;

const EMAIL: &str = "mina@example.org";
/// Signed in or not, as a page of the console sees it.
const IS_IN: &str = "const ask = new XMLHttpRequest();
    ask.open('GET', '/v1/session', false); ask.send(); return ask.status === 200";

/// Made and shown by Chromium's own authenticator, through the console; one that knows nobody, that is a copy, or that a page of
/// another name asks for opens nothing.
pub(super) fn passkeys(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = free_port()?;
    let origin = format!("http://localhost:{port}");
    let stack = launch(ground, folder.path(), &[]).on_localhost(port).start()?;
    sign_up(&stack, EMAIL)?;
    let mut tried = Tried::default();
    for round in 0..ground.count(1, 5) {
        let browser = Browser::open(1000, 900, "en")?;
        let authenticator = browser.authenticator()?;
        browser.go(&format!("{origin}/"))?;
        browser.fill("sign-in-email", EMAIL)?;
        browser.fill("sign-in-password", PASSWORD)?;
        browser.click("sign-in-submit")?;
        browser.until("signed in", IS_IN)?;
        browser.go(&format!("{origin}/#/account"))?;
        browser.fill("passkey-name", &format!("laptop {round}"))?;
        // The form of codes beside it asks for the password too.
        browser.script(&format!(
            "const form = document.querySelector('[data-test=\"passkey-name\"]').closest('form');
             const field = form.querySelector('[data-test=\"again-password\"]');
             field.value = {};
             field.dispatchEvent(new Event('input', {{ bubbles: true }}))",
            json!(PASSWORD)
        ))?;
        browser.click("passkey-add")?;
        let listed = format!(
            "return document.querySelectorAll('[data-test=\"passkeys-list\"] li').length === {}",
            round + 1
        );
        browser.until("the passkey is listed", &listed)?;
        let kept = browser.credentials(&authenticator)?;
        let held = kept.len() == 1
            && kept[0]["rpId"] == "localhost"
            && kept[0]["isResidentCredential"] == true;
        tried.check(held, || format!("the authenticator has {kept:?}"));

        sign_out(&browser, &origin)?;
        browser.click("sign-in-passkey")?;
        let is_in = browser.until("signed in by a passkey", IS_IN).is_ok();
        tried.check(is_in, || "a passkey lets nobody in".into());

        // Without the person: nothing.
        sign_out(&browser, &origin)?;
        browser.verifies(&authenticator, false)?;
        tried.check(!comes_in(&browser)?, || "let in without the person".into());
        browser.verifies(&authenticator, true)?;

        // A copy of it, made before it was used: its counter goes back.
        let mut copy = kept[0].clone();
        copy["signCount"] = json!(0);
        browser.replace_credential(&authenticator, &copy)?;
        browser.go(&format!("{origin}/"))?;
        tried.check(!comes_in(&browser)?, || "a copy lets in".into());

        // One that this place does not know.
        copy["credentialId"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        copy["signCount"] = json!(1_000);
        browser.replace_credential(&authenticator, &copy)?;
        tried.check(!comes_in(&browser)?, || "an unknown passkey lets in".into());

        // A page under another name of this machine may not ask for it.
        browser.go(&format!("http://127.0.0.1:{port}/"))?;
        let asked = browser.script(
            "return navigator.credentials.get({ publicKey: { challenge: new Uint8Array(32), rpId: 'localhost' } })
                .then(() => 'given', (error) => error.name)",
        )?;
        tried.check(asked == "SecurityError", || format!("another name's page: {asked}"));
        // And what it would show is of another origin.
        tried.check(!comes_in(&browser)?, || "let in by another name".into());
    }
    tried.tell(report, "passkeys of Chromium's authenticator");
    Ok(())
}

fn sign_out(browser: &Browser, origin: &str) -> Result<()> {
    let status = browser.script(
        "const ask = new XMLHttpRequest();
         ask.open('DELETE', '/v1/session', false); ask.send(); return ask.status",
    )?;
    ensure!(status == 204, "signing out: {status}");
    browser.go("about:blank")?;
    browser.go(&format!("{origin}/"))
}

/// Shows a passkey as the console does, and says whether that let somebody in.
fn comes_in(browser: &Browser) -> Result<bool> {
    let script = "window.shown = null;
        (async () => {
            const asked = await (await fetch('/v1/session/passkey/options', { method: 'POST' })).json();
            const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(asked);
            publicKey.timeout = 10000;
            const given = await navigator.credentials.get({ publicKey });
            const answer = await fetch('/v1/session/passkey', {
                method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ credential: given.toJSON() }),
            });
            return `status ${answer.status}`;
        })().then((said) => { window.shown = said; }, (error) => { window.shown = `${error.name}: ${error.message}`; });";
    browser.script(script)?;
    let said = within(Duration::from_secs(90), "an answer of the authenticator", || {
        Ok(browser.script("return window.shown")?.as_str().map(str::to_owned))
    })?;
    let is_in = browser.script(IS_IN)? == Value::Bool(true);
    ensure!(is_in == said.starts_with("status 2"), "{said}, and signed in: {is_in}");
    ensure!(!said.starts_with("TypeError") && !said.starts_with("SyntaxError"), "{said}");
    Ok(is_in)
}
