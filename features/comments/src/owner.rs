//! What owners do: sites, what becomes of comments, who may not write, and how many there are.

use std::collections::BTreeSet;

use base::access::{Door, Principal, Resource, Subject};
use base::{OrganisationId, Page, PageRequest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::site::{OrganisationText, Settings, Site, SiteId};
use crate::statistics::{Bucket, By, Range};
use crate::store::{self, Entry, EntryFilter, EntryId, Of, Reader, State};
use crate::write::is_plain;
use crate::{COMMENTS_WRITE, Comments, Error, Result};

/// What an owner does to comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Deed {
    /// Shows them.
    Approve,
    Hold,
    Spam,
    Delete,
    Pin,
    Unpin,
    /// Marks them as spam, and takes nothing more from their writers' accounts, browsers and addresses.
    Ban,
}

/// A page of a list, whose cursor is an id or a digest.
pub(crate) fn cursor(page: PageRequest) -> Result<PageRequest> {
    if page.after.as_ref().is_some_and(|after| !is_plain(after)) {
        return Err(Error::invalid("after", "is not a cursor of this list"));
    }
    Ok(page)
}

impl Comments {
    pub(crate) async fn add_site(
        &self,
        organisation: OrganisationId,
        mut settings: Settings,
    ) -> Result<Site> {
        settings.check(&self.0.config)?;
        let (base, now) = (&self.0.base, self.0.base.clock.now());
        let site = Site {
            organisation: OrganisationText(organisation.to_string()),
            id: SiteId::new(now, &base.entropy).to_string(),
            key: self.new_key(),
            authorities: settings.authorities(),
            settings,
            salt: URL_SAFE_NO_PAD.encode(base.entropy.bytes::<24>()),
            created: now.micros(),
        };
        let (comments, new, most) = (self.clone(), site.clone(), self.0.config.sites_max);
        let added = self.0.needs.db.write(async move |tx| {
            store::add_site(tx, &new, most).await?;
            // Somebody may have asked for the key before it was there.
            comments.site_changed(tx, &new.key).await?;
            Ok::<_, Error>(())
        });
        added.await?;
        Ok(site)
    }

    fn new_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.base.entropy.bytes::<15>())
    }

    pub(crate) async fn sites(
        &self,
        organisation: OrganisationId,
        page: PageRequest,
    ) -> Result<Page<Site>> {
        let PageRequest { after, limit } = cursor(page)?;
        let rows = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
        let sites =
            self.0.needs.db.read(async move |read| {
                store::sites(read, organisation, after.as_deref(), rows).await
            });
        Ok(Page::of(sites.await?, limit, |site| site.id.clone()))
    }

    pub(crate) async fn own_site(&self, organisation: OrganisationId, id: &str) -> Result<Site> {
        let id = store::site_id(id)?.to_string();
        let site = async move |read: &mut relational::Read| {
            store::site_of_id(read, organisation, &id).await
        };
        self.0.needs.db.read(site).await
    }

    pub(crate) async fn change_site(&self, site: &Site, mut settings: Settings) -> Result<Site> {
        settings.check(&self.0.config)?;
        let authorities = settings.authorities();
        self.put_site(site, Site { settings, authorities, ..site.clone() }).await
    }

    /// Another key: pages with the former one show nothing any more.
    pub(crate) async fn rotate_key(&self, site: &Site) -> Result<Site> {
        self.put_site(site, Site { key: self.new_key(), ..site.clone() }).await
    }

    async fn put_site(&self, old: &Site, new: Site) -> Result<Site> {
        let (comments, old_key, put) = (self.clone(), old.key.clone(), new.clone());
        let organisation = old.organisation()?;
        let changed = self.0.needs.db.write(async move |tx| {
            store::change_site(tx, organisation, &put.id, &put.settings, &put.key).await?;
            comments.site_changed(tx, &old_key).await?;
            comments.site_changed(tx, &put.key).await?;
            Ok::<_, Error>(())
        });
        changed.await?;
        Ok(new)
    }

    pub(crate) async fn remove_site(&self, site: &Site) -> Result<()> {
        let (comments, old, organisation) = (self.clone(), site.clone(), site.organisation()?);
        let now = self.0.base.clock.now();
        let removed = self.0.needs.db.write(async move |tx| {
            store::remove_site(tx, organisation, &old.id, now).await?;
            comments.site_changed(tx, &old.key).await?;
            Ok::<_, Error>(())
        });
        removed.await?;
        let comments = self.clone();
        self.0.base.tasks.spawn("comments_purge", async move {
            if let Err(error) = comments.tidy().await {
                tracing::warn!(%error, "what a removed site left goes later");
            }
        });
        Ok(())
    }

    /// Comments of a site, the newest first, each with its page's address and title.
    pub(crate) async fn entries(
        &self,
        site: &Site,
        filter: EntryFilter,
        page: PageRequest,
    ) -> Result<Page<(Entry, String, String)>> {
        let PageRequest { after, limit } = cursor(page)?;
        let rows = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let entries = self.0.needs.db.read(async move |read| {
            let of = Of { organisation, site: &own };
            store::entries(read, of, &filter, (after.as_deref(), rows)).await
        });
        Ok(Page::of(entries.await?, limit, |(entry, _, _)| entry.id.to_string()))
    }

    /// How many comments are in each state.
    pub(crate) async fn states(&self, site: &Site) -> Result<Vec<(State, i64)>> {
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let states = async move |read: &mut relational::Read| {
            store::states(read, Of { organisation, site: &own }).await
        };
        self.0.needs.db.read(states).await
    }

    /// Does the same to many comments, to all or to none. How many are other ones now.
    pub(crate) async fn act(&self, site: &Site, deed: Deed, ids: Vec<EntryId>) -> Result<usize> {
        let most = self.0.config.action_comments_max;
        if ids.is_empty() || ids.len() > most {
            return Err(Error::invalid("/comments", format!("must be 1 to {most} comments")));
        }
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let (comments, now) = (self.clone(), self.0.base.clock.now());
        let acted = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own };
            let (mut changed, mut pages) = (0, BTreeSet::new());
            for id in &ids {
                let entry = store::entry_of_id(tx, of, *id).await?;
                if entry.state == State::Deleted {
                    continue;
                }
                let (state, kind) = match deed {
                    Deed::Approve => (State::Shown, "comment.approved"),
                    Deed::Hold => (State::Held, "comment.held"),
                    Deed::Spam | Deed::Ban => (State::Spam, "comment.held"),
                    Deed::Delete => (State::Deleted, "comment.deleted"),
                    Deed::Pin | Deed::Unpin => (entry.state, "comment.pinned"),
                };
                match deed {
                    Deed::Pin | Deed::Unpin => {
                        store::set_pinned(tx, of, *id, deed == Deed::Pin).await?;
                    }
                    Deed::Delete => store::erase(tx, of, &entry).await?,
                    _ => store::set_state(tx, of, &entry, state, None).await?,
                }
                if deed == Deed::Ban {
                    // Of what was imported nobody knows who wrote it.
                    for mark in
                        [&entry.author, &entry.address].into_iter().filter(|it| !it.is_empty())
                    {
                        store::ban(tx, of, (mark, &entry.name), now).await?;
                    }
                }
                comments.announce(tx, of, &Entry { state, ..entry.clone() }, kind).await?;
                changed += 1;
                pages.insert(entry.page);
            }
            for page in &pages {
                comments.thread_changed(tx, of, page).await?;
            }
            Ok::<_, Error>((changed, pages))
        });
        let (changed, pages) = acted.await?;
        for page in pages {
            self.tell(organisation, &site.id, &page);
        }
        Ok(changed)
    }

    /// Answers a comment as the site's owner; the queue's way to say something.
    pub(crate) async fn answer(
        &self,
        site: &Site,
        (account, name): (String, &str),
        (parent, text): (EntryId, String),
    ) -> Result<Entry> {
        let (text, name) = (self.text(&text)?, self.name(name)?);
        let body = text.body();
        let (organisation, own) = (site.organisation()?, site.clone());
        let now = self.0.base.clock.now();
        let id = EntryId::new(now, &self.0.base.entropy);
        let comments = self.clone();
        let written = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own.id };
            let parent = store::entry_of_id(tx, of, parent).await?;
            if parent.state != State::Shown {
                return Err(Error::NotFound("comment"));
            }
            let entry = Entry {
                page: parent.page,
                id,
                nonce: id.to_string(),
                parent: Some(parent.id),
                state: State::Shown,
                reason: None,
                author: own.mark("account", &account),
                address: String::new(),
                account: Some(account.clone()),
                name: name.clone(),
                password: None,
                source: text.source.clone(),
                body: body.clone(),
                is_owner: true,
                // A secret is answered in secret.
                is_secret: parent.is_secret,
                is_pinned: false,
                likes: 0,
                reports: 0,
                created: now,
                edited: None,
            };
            store::add_entry(tx, of, &entry).await?;
            comments.happened(tx, of, &entry, "comment.written").await?;
            Ok(entry)
        });
        let entry: Entry = written.await?;
        self.tell(organisation, &site.id, &entry.page);
        Ok(entry)
    }

    /// Lets a page take comments, or no more.
    pub(crate) async fn close_page(&self, site: &Site, url: &str, is_closed: bool) -> Result<()> {
        let page = crate::page::Page::of(url)?;
        if !site.has(&page.authority) {
            return Err(Error::Elsewhere);
        }
        let (organisation, own, id) = (site.organisation()?, site.id.clone(), page.id());
        let (comments, now) = (self.clone(), self.0.base.clock.now());
        let closed = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own };
            let new = store::NewPage { id: &id, url: &page.url, title: "", now };
            store::open_page(tx, of, &new).await?;
            store::set_closed(tx, of, &id, is_closed).await?;
            comments.thread_changed(tx, of, &id).await?;
            Ok::<_, Error>(id.clone())
        });
        let page = closed.await?;
        self.tell(organisation, &site.id, &page);
        Ok(())
    }

    /// How many of the comments that are shown now were written when, in the site's zone.
    pub(crate) async fn statistics(
        &self,
        site: &Site,
        by: By,
        (from, to): (&str, &str),
    ) -> Result<Vec<Bucket>> {
        let most = self.0.config.statistics_parts_max;
        let mut range = Range::new(by, (from, to), &site.settings.zone, most)?;
        let (organisation, own, quarters) =
            (site.organisation()?, site.id.clone(), range.quarters());
        let counts = self.0.needs.db.read(async move |read| {
            store::quarters(read, Of { organisation, site: &own }, quarters).await
        });
        for (quarter, comments) in counts.await? {
            range.add(quarter, comments);
        }
        Ok(range.buckets())
    }

    pub(crate) async fn bans(
        &self,
        site: &Site,
        page: PageRequest,
    ) -> Result<Page<(String, String, base::Timestamp)>> {
        let PageRequest { after, limit } = cursor(page)?;
        let rows = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let bans = self.0.needs.db.read(async move |read| {
            store::bans(read, Of { organisation, site: &own }, after.as_deref(), rows).await
        });
        Ok(Page::of(bans.await?, limit, |(mark, _, _)| mark.clone()))
    }

    pub(crate) async fn unban(&self, site: &Site, mark: String) -> Result<()> {
        if !is_plain(&mark) {
            return Err(Error::NotFound("ban"));
        }
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let unban = async move |tx: &mut relational::Tx| {
            store::unban(tx, Of { organisation, site: &own }, &mark).await
        };
        self.0.needs.db.write(unban).await
    }

    /// A token with which an account writes on the pages of one site, and does nothing else.
    pub(crate) async fn add_token(&self, site: &Site, reader: Reader) -> Result<String> {
        let token = URL_SAFE_NO_PAD.encode(self.0.base.entropy.bytes::<24>());
        let expires = self.0.base.clock.now().plus(self.0.config.token_time_max);
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let mark = site.mark("token", &token);
        let add = async move |tx: &mut relational::Tx| {
            store::add_token(tx, Of { organisation, site: &own }, (&mark, &reader), expires).await
        };
        self.0.needs.db.write(add).await?;
        Ok(token)
    }

    pub(crate) async fn reader(&self, site: &Site, token: &str) -> Result<Reader> {
        let (organisation, own, now) =
            (site.organisation()?, site.id.clone(), self.0.base.clock.now());
        let mark = site.mark("token", token);
        let found = self.0.needs.db.read(async move |read| {
            store::reader(read, Of { organisation, site: &own }, &mark, now).await
        });
        let found: Option<Reader> = found.await?;
        let reader = found.ok_or(Error::SignedOut)?;
        // The token outlives neither its account nor the account's rights.
        let principal = Principal {
            organisation: reader.home,
            subject: Subject::Account(reader.account),
            name: reader.name.as_str().into(),
        };
        let authority = &self.0.needs.authority;
        if !authority.is_current(&principal) {
            return Err(Error::SignedOut);
        }
        let path = format!("comment-site/{}", site.id);
        let resource = Resource { organisation, path: &path };
        let is_owner = reader.is_owner
            && authority.authorize_at(Door::Http, &principal, COMMENTS_WRITE, resource).is_ok();
        Ok(Reader { is_owner, ..reader })
    }

    pub(crate) async fn remove_token(&self, site: &Site, token: &str) -> Result<()> {
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let mark = site.mark("token", token);
        let remove = async move |tx: &mut relational::Tx| {
            store::remove_token(tx, Of { organisation, site: &own }, &mark).await
        };
        self.0.needs.db.write(remove).await
    }

    /// How many comments pages have, in the order in which they were asked for.
    pub(crate) async fn counts(
        &self,
        site: &Site,
        pages: Vec<crate::page::Page>,
    ) -> Result<Vec<i64>> {
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let names: Vec<String> = pages.iter().map(crate::page::Page::id).collect();
        let asked = names.clone();
        let counts = self.0.needs.db.read(async move |read| {
            store::counts(read, Of { organisation, site: &own }, &asked).await
        });
        let counts: std::collections::HashMap<String, i64> = counts.await?.into_iter().collect();
        Ok(names.iter().map(|name| counts.get(name).copied().unwrap_or(0)).collect())
    }
}
