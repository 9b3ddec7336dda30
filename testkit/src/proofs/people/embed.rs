use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::blog::Blog;
use crate::embedded::Embedded;
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};
use crate::wait::within;

/// The widget in a page of another origin, in two Chromium windows that keep no third party's cookies: a guest and an account
/// write, answer, like, change, delete and keep a secret; the other window shows each live; what is sent without a network
/// is there once when it is back.
pub fn embed(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let (blog, _) = Embedded::blog(&stack)?;
    let mina = Embedded::open(&format!("{}/post?utm_source=mail", blog.origin()))?;
    let jun = Embedded::open(&format!("{}/post/", blog.origin()))?;
    // Whatever else this proves, it proves nothing where the browser would send such a cookie.
    let keeps = third_party(&mina)?;
    report.bound(!keeps, "the browser keeps no cookie of a third party");
    write_and_answer(&mina, &jun)?;
    report.figure("written, answered, liked and changed by guests, shown in the other window");
    keep_a_secret(&mina, &jun)?;
    report.figure("a secret is shown to its writer, and to who has the password");
    leave_and_come_back(&blog, &mina, &jun)?;
    report.figure("deleted; a draft and the answer stay; from offline it comes, once");
    for window in [&mina, &jun] {
        let complaints = window.browser.complaints()?;
        let ran = window.browser.script("return window.ran")?;
        report.bound(complaints.is_empty() && ran == 0, format!("complaints {complaints:?}"));
    }
    sign_in(&stack, &blog)?;
    report.figure("an account signs in in a window of the server, and writes");
    Ok(report)
}

/// Whether a frame of another site may keep a cookie.
fn third_party(window: &Embedded) -> Result<bool> {
    const FRAME: &str = "<!doctype html><script>
        document.cookie = 'third=1; SameSite=None; Secure';
        parent.postMessage({ cookie: document.cookie }, '*');</script>";
    let other = Blog::open(FRAME.to_owned())?;
    window.browser.script(&format!(
        "addEventListener('message', ({{ data }}) => {{ window.cookie = data?.cookie ?? window.cookie; }});
        const frame = document.createElement('iframe');
        frame.src = 'http://127.0.0.1:{}/';
        document.body.append(frame);",
        other.port
    ))?;
    window.browser.until("the frame", "return window.cookie !== undefined")?;
    let cookie = window.browser.script("return window.cookie")?;
    Ok(cookie.as_str().context("no cookies")?.contains("third"))
}

fn write_and_answer(mina: &Embedded, jun: &Embedded) -> Result<()> {
    mina.run("fill(root.querySelector('form'), { textarea: 'the **first**', ...guest('Mina') })")?;
    jun.until(
        "the first comment, live",
        "return find('the first')?.querySelector('strong').textContent === 'first'",
    )?;
    mina.until("one's own is focused", "return root.activeElement === find('the first')")?;

    jun.run("find('the first').querySelector('.reply').click()")?;
    jun.until("the form has the focus", "return root.activeElement?.localName === 'textarea'")?;
    jun.run(
        "fill(find('the first').querySelector('form'), { textarea: 'an answer', ...guest('Jun') })",
    )?;
    mina.until(
        "the answer under it",
        "return find('an answer')?.closest('ol').previousElementSibling.previousElementSibling === find('the first')",
    )?;
    mina.run("find('an answer').querySelector('.like').click()")?;
    jun.until("the like", "return find('an answer').querySelector('.like').textContent === '♥ 1'")?;
    mina.until(
        "one's own like",
        "return find('an answer').querySelector('.like').getAttribute('aria-pressed') === 'true'",
    )?;

    mina.run("find('the first').querySelector('.edit').click()")?;
    mina.until(
        "the source",
        "return find('the first').querySelector('textarea')?.value === 'the **first**'",
    )?;
    mina.run("fill(find('the first').querySelector('form'), { textarea: 'the *second*' })")?;
    jun.until("the change", "return !!find('the second')?.querySelector('em')")
}

fn keep_a_secret(mina: &Embedded, jun: &Embedded) -> Result<()> {
    mina.run(
        "fill(root.querySelector('form'), { '[type=checkbox]': true, textarea: 'a secret', ...guest('Mina') })",
    )?;
    mina.until("one's own secret", "return !!find('a secret')")?;
    jun.until("that there is a secret", "return !!find('Secret comment')")?;
    let is_told = jun.run("return root.textContent.includes('a secret')")?;
    ensure!(is_told == false, "the other window shows the secret");
    // With the password it is opened from anywhere.
    jun.run("find('Secret comment').querySelector('.show').click()")?;
    jun.until("the question", "return !!find('Secret comment').querySelector('form')")?;
    jun.run(
        "fill(find('Secret comment').querySelector('form'), { '[type=password]': 'pass word' })",
    )?;
    jun.until("the secret", "return !!find('a secret')")
}

fn leave_and_come_back(blog: &Blog, mina: &Embedded, jun: &Embedded) -> Result<()> {
    // What is half written stays while others write, and after the page was left.
    jun.run(
        "const text = root.querySelector('textarea'); text.value = 'half written'; text.dispatchEvent(new Event('input'))",
    )?;
    mina.run("find('the second').querySelector('.remove').click()")?;
    mina.run("find('the second').querySelector('form').requestSubmit()")?;
    jun.until(
        "it is deleted, and the answer stays",
        "return !!find('Deleted') && !!find('an answer')",
    )?;
    let draft = jun.run("return root.querySelector('textarea').value")?;
    ensure!(draft == "half written", "the draft is {draft}");
    jun.browser.go(&format!("{}/post/", blog.origin()))?;
    let draft = "return document.querySelector('madang-comments').shadowRoot?.querySelector('textarea')?.value === 'half written'";
    jun.browser.until("the draft", draft)?;
    jun.until(
        "the count beside the title",
        "return document.querySelector('[data-madang-count]').textContent === '2'",
    )?;

    jun.browser.connect(false)?;
    jun.run("fill(root.querySelector('form'), { textarea: 'from the train', ...guest('Jun') })")?;
    jun.until(
        "it is said",
        "return root.querySelector('[role=status]').textContent.startsWith('Offline')",
    )?;
    jun.browser.connect(true)?;
    mina.until("it comes when the network is back", "return !!find('from the train')")?;
    jun.until(
        "once",
        "return all().filter((one) => one.textContent.includes('from the train')).length === 1",
    )
}

fn sign_in(stack: &Stack, blog: &Blog) -> Result<()> {
    let account = json!({
        "email": "hana@example.com", "password": "a long password of somebody", "organisation": "Hana",
    });
    stack.stranger().post("/v1/accounts", &account)?.ok()?;
    let hana = Embedded::open(&format!("{}/post", blog.origin()))?;
    let page = hana.browser.windows()?;
    hana.run(
        "[...root.querySelectorAll('button')].find((one) => one.textContent === 'Sign in').click()",
    )?;
    let popup = within(Duration::from_secs(20), "the window", || {
        Ok(hana.browser.windows()?.into_iter().find(|window| !page.contains(window)))
    })?;
    hana.browser.switch(&popup)?;
    hana.browser
        .until("the form", "return document.getElementById('session')?.hidden === false")?;
    hana.browser.script(
        "const form = document.getElementById('session');
        form.elements.email.value = 'hana@example.com'; form.elements.password.value = 'a long password of somebody';
        form.requestSubmit();",
    )?;
    hana.browser.until("the name", "return document.getElementById('name').hidden === false")?;
    hana.browser.script("document.forms.name.elements.name.value = 'Hana'; setTimeout(() => document.forms.name.requestSubmit())")?;
    hana.browser.switch(page.first().context("no window")?)?;
    hana.until("she is signed in", "return root.textContent.includes('Hana · Sign out')")?;
    hana.run("fill(root.querySelector('form'), { textarea: 'by account' })")?;
    hana.until(
        "the comment",
        "return find('by account')?.querySelector('b').textContent === 'Hana'",
    )?;
    let complaints = hana.browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}
