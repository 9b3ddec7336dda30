//! A site that comments are embedded in: from where, under which rules.

use base::{Id, OrganisationId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::page::{Page, authority_of};
use crate::write::Text;
use crate::{Config, Error, Fault, Result, markup};

#[derive(Debug)]
pub(crate) enum SiteKind {}
/// Names a site to its owners.
pub(crate) type SiteId = Id<SiteKind>;

/// A site as it is asked for with each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    pub organisation: OrganisationText,
    pub id: String,
    /// Stands in the page's element; it names the site and opens nothing.
    pub key: String,
    pub settings: Settings,
    /// Of the origins in the settings, parsed once.
    pub authorities: Vec<String>,
    /// Makes digests of addresses that mean nothing on another site.
    pub salt: String,
    pub created: i64,
}

/// An organisation's id as text, for answers that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct OrganisationText(pub String);

/// What owners say about a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// For its owners.
    pub name: String,
    /// Where pages with comments are, as `https://blog.example.com`. The scheme does not count.
    pub origins: Vec<String>,
    /// The time zone of statistics, as `Asia/Seoul`.
    #[serde(default = "utc")]
    pub zone: String,
    #[serde(default)]
    pub moderation: Moderation,
    #[serde(default)]
    pub rules: Rules,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What waits for an owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Moderation {
    /// Nothing but what rules hold.
    #[default]
    Open,
    /// The first comments of everybody, until one is approved.
    First,
    /// Everything.
    All,
}

/// What is held or refused, whoever writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rules {
    /// Words that hold a comment, in any case of letters.
    pub held_words: Vec<String>,
    /// Words with which a comment is not taken.
    pub refused_words: Vec<String>,
    /// A comment with more links is held.
    pub links_max: u32,
    /// A comment that so many people reported is held; 0 for never.
    pub reports_hold: u32,
    /// Whether people without an account may write.
    pub guests: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let words = Vec::new;
        Self {
            held_words: words(),
            refused_words: words(),
            links_max: 3,
            reports_hold: 3,
            guests: true,
        }
    }
}

/// What becomes of a new text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Shown,
    /// Shown if something of its writer is; held as a first one otherwise.
    First,
    /// Why, for the owners.
    Held(&'static str),
    Refused,
}

impl Settings {
    pub(crate) fn check(&mut self, config: &Config) -> Result<()> {
        let mut faults = Vec::new();
        let mut fault = |pointer: &str, text: String| faults.push(Fault::new(pointer, text));
        self.name = self.name.trim().to_owned();
        if self.name.is_empty() || self.name.chars().count() > config.name_chars_max {
            fault("/name", format!("must have 1 to {} characters", config.name_chars_max));
        }
        if self.origins.is_empty() || self.origins.len() > config.origins_max {
            fault("/origins", format!("must be 1 to {} origins", config.origins_max));
        }
        for (index, origin) in self.origins.iter_mut().enumerate() {
            *origin = origin.trim().trim_end_matches('/').to_owned();
            if authority_of(origin).is_none() {
                let text = "must be an origin such as https://blog.example.com";
                fault(&format!("/origins/{index}"), text.to_owned());
            }
        }
        if jiff::tz::TimeZone::get(&self.zone).is_err() || self.zone.len() > 64 {
            fault("/zone", "must be a time zone such as Asia/Seoul".to_owned());
        }
        for (name, words) in [
            ("held_words", &mut self.rules.held_words),
            ("refused_words", &mut self.rules.refused_words),
        ] {
            for word in words.iter_mut() {
                *word = word.trim().to_lowercase();
            }
            words.retain(|word| !word.is_empty());
            if words.len() > config.words_max || words.iter().any(|word| word.chars().count() > 100)
            {
                let text = format!("must be at most {} words of 100 characters", config.words_max);
                fault(&format!("/rules/{name}"), text);
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
    }

    pub(crate) fn authorities(&self) -> Vec<String> {
        self.origins.iter().filter_map(|origin| authority_of(origin)).collect()
    }
}

impl Site {
    pub(crate) fn organisation(&self) -> Result<OrganisationId> {
        self.organisation.0.parse().map_err(|_| Error::damaged("a site's organisation"))
    }

    /// The page, when the site may have comments there: on its own origins, or on the server's.
    pub(crate) fn page(&self, url: &str, host: Option<&str>) -> Result<Page> {
        let page = Page::of(url)?;
        if self.has(&page.authority) || host.is_some_and(|host| is_host(host, &page.authority)) {
            return Ok(page);
        }
        Err(Error::Elsewhere)
    }

    /// Lets a browser's request in when it came from a page of the site. What is no browser says no origin.
    pub(crate) fn welcome(&self, origin: Option<&str>, host: Option<&str>) -> Result<()> {
        let Some(origin) = origin else { return Ok(()) };
        let authority = authority_of(origin).ok_or(Error::Elsewhere)?;
        if self.has(&authority) || host.is_some_and(|host| is_host(host, &authority)) {
            return Ok(());
        }
        Err(Error::Elsewhere)
    }

    pub(crate) fn has(&self, authority: &str) -> bool {
        self.authorities.iter().any(|known| known == authority)
    }

    /// A digest that tells one from another on this site, and says nothing about who it is.
    pub(crate) fn mark(&self, kind: &str, value: &str) -> String {
        let mut digest = Sha256::new();
        for part in [self.salt.as_str(), kind, value] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        URL_SAFE_NO_PAD.encode(digest.finalize())
    }

    /// What rules say about a text.
    pub(crate) fn judge(&self, text: &Text) -> Verdict {
        let rules = &self.settings.rules;
        let plain = text.source.to_lowercase();
        let has = |words: &[String]| words.iter().any(|word| plain.contains(word.as_str()));
        if has(&rules.refused_words) {
            return Verdict::Refused;
        }
        if has(&rules.held_words) {
            return Verdict::Held("word");
        }
        if markup::links(&text.tree) > usize::try_from(rules.links_max).unwrap_or(usize::MAX) {
            return Verdict::Held("links");
        }
        match self.settings.moderation {
            Moderation::All => Verdict::Held("all"),
            Moderation::First => Verdict::First,
            Moderation::Open => Verdict::Shown,
        }
    }
}

fn is_host(host: &str, authority: &str) -> bool {
    authority_of(&format!("http://{host}")).is_some_and(|own| own == authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(moderation: Moderation, rules: Rules) -> Site {
        let settings = Settings {
            name: "Blog".into(),
            origins: vec!["https://blog.example.com".into(), "http://localhost:4000".into()],
            zone: "Asia/Seoul".into(),
            moderation,
            rules,
        };
        Site {
            organisation: OrganisationText(OrganisationId::DEFAULT.to_string()),
            id: "1".into(),
            key: "k".into(),
            authorities: settings.authorities(),
            settings,
            salt: "salt".into(),
            created: 0,
        }
    }

    #[test]
    fn only_pages_of_the_site_are_let_in() {
        let site = site(Moderation::Open, Rules::default());
        for origin in [
            None,
            Some("https://blog.example.com"),
            Some("http://BLOG.example.com"),
            Some("http://localhost:4000"),
        ] {
            assert!(site.welcome(origin, None).is_ok(), "{origin:?}");
        }
        for origin in [
            "https://evil.example",
            "null",
            "https://blog.example.com.evil.example",
            "http://localhost:4001",
            "https://xblog.example.com",
        ] {
            assert!(site.welcome(Some(origin), Some("comments.example.com")).is_err(), "{origin}");
        }
        assert!(
            site.welcome(Some("https://comments.example.com"), Some("comments.example.com"))
                .is_ok()
        );
        assert!(site.page("https://blog.example.com/one", None).is_ok());
        assert!(site.page("https://evil.example/one", None).is_err());
    }

    #[test]
    fn rules_hold_and_refuse() {
        let rules = Rules {
            held_words: vec!["casino".into()],
            refused_words: vec!["바보".into()],
            links_max: 1,
            ..Rules::default()
        };
        let judged =
            |moderation, text: &str| site(moderation, rules.clone()).judge(&Text::of(text));
        assert_eq!(judged(Moderation::Open, "hello"), Verdict::Shown);
        assert_eq!(judged(Moderation::Open, "the best CASINO"), Verdict::Held("word"));
        assert_eq!(judged(Moderation::Open, "이 바보야"), Verdict::Refused);
        assert_eq!(judged(Moderation::Open, "https://a.kr https://b.kr"), Verdict::Held("links"));
        assert_eq!(judged(Moderation::First, "hello"), Verdict::First);
        assert_eq!(judged(Moderation::All, "hello"), Verdict::Held("all"));
    }

    #[test]
    fn settings_are_checked_and_tidied() {
        let config = Config::default();
        let mut good = site(Moderation::Open, Rules::default()).settings;
        good.origins = vec!["https://a.kr/".into()];
        good.check(&config).unwrap();
        assert_eq!(good.origins, ["https://a.kr"]);
        for change in [
            (|it: &mut Settings| it.name = " ".into()) as fn(&mut Settings),
            |it| it.origins = vec![],
            |it| it.origins = vec!["*".into()],
            |it| it.origins = vec!["https://a.kr/path".into()],
            |it| it.zone = "Seoul".into(),
            |it| it.rules.held_words = vec!["x".repeat(101)],
        ] {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(bad.check(&config).is_err(), "{bad:?}");
        }
    }
}
