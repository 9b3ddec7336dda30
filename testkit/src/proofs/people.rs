//! People: what those hold to who write, read and comment.

mod articles_speed;
mod crowd;
mod thread_speed;

pub use articles_speed::articles_speed;
pub use crowd::crowd;
pub use thread_speed::thread_speed;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::stack::{Launch, Stack};

const BLOG: &str = "https://blog.example.com";

/// A stack with one site, whose limits for one address do not count: everybody comes from here.
struct Threads {
    stack: Stack,
    site: String,
    key: String,
}

impl Threads {
    fn start(launch: Launch) -> Result<Self> {
        let mut launch = launch;
        for limit in ["WRITES", "LIKES", "REPORTS", "PASSWORDS"] {
            let name = format!("MADANG__COMMENTS__{limit}_PER_ADDRESS_MAX");
            launch = launch.environment(&name, "1000000000");
        }
        let stack = launch.start()?;
        let site = json!({"name": "Blog", "origins": [BLOG], "zone": "Asia/Seoul"});
        let site = stack.api().post("/v1/comment-sites", &site)?.ok()?;
        let text = |name: &str| site[name].as_str().map(str::to_owned).context("a site");
        let (site, key) = (text("id")?, text("key")?);
        Ok(Self { stack, site, key })
    }

    fn path(&self, rest: &str) -> String {
        format!("/comments/{}/{rest}", self.key)
    }

    fn thread_path(&self, page: &str) -> String {
        format!("/comments/{}/thread?url={BLOG}{page}", self.key)
    }
}

fn comment(page: &str, browser: &str, text: &str) -> Value {
    json!({
        "url": format!("{BLOG}{page}"), "name": "Mina", "password": "pass word", "browser": browser, "text": text,
    })
}
