use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::blog::Blog;
use crate::browser::Browser;
use crate::stack::Stack;

/// The comment widget in a page of another origin, as a browser shows it.
pub struct Embedded {
    pub browser: Browser,
}

/// For scripts in the page: the widget's root, and its comments by a part of their text.
const FIND: &str = "
    const root = document.querySelector('madang-comments').shadowRoot;
    const all = () => [...root.querySelectorAll('article')];
    const find = (text) => all().find((one) => one.querySelector('.b').textContent.includes(text));
    const fill = (form, fields) => {
        for (const [css, value] of Object.entries(fields)) {
            const field = form.querySelector(css);
            if (field.type === 'checkbox') { if (field.checked !== value) field.click(); continue; }
            field.value = value;
            field.dispatchEvent(new Event('input'));
        }
        form.requestSubmit();
    };
    const guest = (name) => ({ '[name=name]': name, '[name=password]': 'pass word' });
";

impl Embedded {
    /// Pages of another origin with the widget in them, which count what ran that should not; and their site.
    pub fn blog(stack: &Stack) -> Result<(Blog, Value)> {
        const HEAD: &str = "<meta http-equiv=Content-Security-Policy content=\"require-trusted-types-for 'script'\">
            <script>window.ran = 0; window.alert = window.confirm = window.prompt = () => { window.ran += 1; };</script>
            <p>Comments: <span data-madang-count='/post'></span></p>";
        Self::blog_with(stack, HEAD)
    }

    /// The same, with something else before the widget.
    pub fn blog_with(stack: &Stack, head: &str) -> Result<(Blog, Value)> {
        let new = json!({"name": "Blog", "origins": ["http://localhost:1"]});
        let made = stack.api().post("/v1/comment-sites", &new)?.ok()?;
        let key = made["key"].as_str().context("no key")?;
        let id = made["id"].as_str().context("no id")?;
        let page = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>A post</title>{head}<h1>A post</h1>
            <madang-comments site='{key}'></madang-comments><script async src='http://{}/comments/widget.js'></script>",
            stack.http_address()
        );
        let blog = Blog::open(page)?;
        let origins = json!({"origins": [blog.origin()]});
        let made = stack.api().patch(&format!("/v1/comment-sites/{id}"), &origins)?.ok()?;
        Ok((blog, made))
    }

    pub fn open(url: &str) -> Result<Self> {
        let browser = Browser::open(900, 900, "en")?;
        browser.go(url)?;
        let form =
            "return !!document.querySelector('madang-comments').shadowRoot?.querySelector('form')";
        browser.until("the widget", form)?;
        Ok(Self { browser })
    }

    /// What a script in the page gives, which has `root`, `all`, `find`, `fill` and `guest`.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.browser.script(&format!("{FIND}{script}"))
    }

    /// Waits until such a script gives true.
    pub fn until(&self, what: &str, script: &str) -> Result<()> {
        self.browser.until(what, &format!("{FIND}{script}"))
    }
}
