//! Groups of people: whoever is in one may do what it lets them, beside what their role does.

use std::collections::BTreeSet;

use base::{AccountId, Id, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Row, ToValue, Tx, Value, params};

use crate::accounts::normal_name;
use crate::audit::{By, Change, note, subject_text};
use crate::keys::{check_grants, insert_grants};
use crate::people::{Edit, count_value, lock, outside_id};
use crate::settling::Whom;
use crate::{Error, Grant, Identity};

/// Names a group.
pub type GroupId = Id<Groups>;

/// Marks the ids of groups; never a value.
#[derive(Debug)]
pub enum Groups {}

/// People who may do something together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    pub name: String,
    /// A directory's own id of it.
    pub outside_id: Option<String>,
    /// What everybody in it may do.
    pub grants: Vec<Grant>,
    pub members: usize,
    pub created: Timestamp,
    pub changed: Timestamp,
    /// One more with each change.
    pub version: i64,
}

/// A group to make.
#[derive(Debug, Clone, Default)]
pub struct NewGroup {
    pub name: String,
    pub outside_id: Option<String>,
    pub grants: Vec<Grant>,
    pub members: Vec<AccountId>,
}

/// What changes about a group; the rest stays.
#[derive(Debug, Clone, Default)]
pub struct GroupChange {
    pub name: Option<String>,
    pub outside_id: Edit<String>,
    pub grants: Option<Vec<Grant>>,
    pub members: Option<Members>,
    /// The version that the change was made from; without it the newest counts.
    pub version: Option<i64>,
}

/// How the people of a group change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// These and nobody else.
    Are(Vec<AccountId>),
    /// Some more, and some not any more.
    Change { add: Vec<AccountId>, remove: Vec<AccountId> },
}

/// Which groups are wanted; all of them by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupsFilter {
    pub id: Option<GroupId>,
    pub name: Option<String>,
    pub outside_id: Option<String>,
    /// Those that somebody is in.
    pub member: Option<AccountId>,
}

const COLUMNS: &str = "id, name, outside_id, created, changed, version,
    (SELECT COUNT(*) FROM group_member WHERE people_group = people_group.id) AS members";

impl GroupsFilter {
    fn conditions(&self, organisation: OrganisationId) -> (String, Vec<Value>) {
        let member = "id IN (SELECT people_group FROM group_member WHERE account = ?)";
        let wanted = [
            ("id = ?", self.id.map(|id| id.to_value())),
            ("name = ?", self.name.as_ref().map(ToValue::to_value)),
            ("outside_id = ?", self.outside_id.as_ref().map(ToValue::to_value)),
            (member, self.member.map(|member| member.to_value())),
        ];
        let mut sql = "organisation = ?".to_owned();
        let mut values = vec![organisation.to_value()];
        for (condition, given) in wanted {
            let Some(given) = given else { continue };
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(given);
        }
        (sql, values)
    }
}

impl Identity {
    /// The groups of an organisation, in the order in which they were made.
    pub async fn groups(
        &self,
        organisation: OrganisationId,
        filter: &GroupsFilter,
        page: &PageRequest,
    ) -> Result<Page<Group>, Error> {
        let (conditions, mut values) = filter.conditions(organisation);
        values.push(page.after.clone().unwrap_or_default().to_value());
        values.push(count_value(page.limit + 1));
        let sql = format!(
            "SELECT {COLUMNS} FROM people_group WHERE {conditions} AND id > ? ORDER BY id LIMIT ?"
        );
        let rows = self.0.db.read(async move |read| read.query(&sql, &values).await).await?;
        let groups = rows.iter().map(|row| self.group_of(row)).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(groups, page.limit, |group| group.id.to_string()))
    }

    /// The same, so many of them after so many others, and how many there are at all.
    pub async fn groups_at(
        &self,
        organisation: OrganisationId,
        filter: &GroupsFilter,
        (offset, limit): (usize, usize),
    ) -> Result<(Vec<Group>, usize), Error> {
        let (conditions, values) = filter.conditions(organisation);
        let part = [values.clone(), vec![count_value(limit), count_value(offset)]].concat();
        let count = format!("SELECT COUNT(*) AS count FROM people_group WHERE {conditions}");
        let sql = format!(
            "SELECT {COLUMNS} FROM people_group WHERE {conditions} ORDER BY id LIMIT ? OFFSET ?"
        );
        let found = self.0.db.read(async move |read| {
            let count: i64 = read.query_one(&count, &values).await?.get("count")?;
            Ok::<_, Error>((read.query(&sql, &part).await?, count))
        });
        let (rows, count) = found.await?;
        let groups = rows.iter().map(|row| self.group_of(row)).collect::<Result<Vec<_>, _>>()?;
        Ok((groups, usize::try_from(count).unwrap_or(0)))
    }

    pub async fn group(&self, organisation: OrganisationId, id: GroupId) -> Result<Group, Error> {
        let filter = GroupsFilter { id: Some(id), ..GroupsFilter::default() };
        let (groups, _) = self.groups_at(organisation, &filter, (0, 1)).await?;
        groups.into_iter().next().ok_or(Error::NotThere("group"))
    }

    /// The ids of everybody in a group.
    pub fn members(&self, organisation: OrganisationId, id: GroupId) -> Vec<AccountId> {
        let live = self.0.live.read();
        let is_own = live.groups.get(&id).is_some_and(|group| group.organisation == organisation);
        let mut members: Vec<AccountId> =
            if is_own { live.members(id).collect() } else { Vec::new() };
        members.sort();
        members
    }

    /// Makes a group. It can let people do what its maker may, and no more.
    pub async fn create_group(&self, by: By<'_>, new: NewGroup) -> Result<Group, Error> {
        let inner = &self.0;
        let organisation = by.0.organisation;
        let name = normal_name(&new.name)?;
        let outside = new.outside_id.as_deref().map(outside_id).transpose()?;
        let grants = self.grants_of_group(by, new.grants)?;
        let members: BTreeSet<AccountId> = new.members.into_iter().collect();
        let now = inner.base.clock.now();
        let id = GroupId::new(now, &inner.base.entropy);
        let (base, db) = (inner.base.clone(), inner.db.clone());
        let (max, per_account) = (inner.config.groups_max, inner.config.groups_per_account_max);
        let mut change = Change::of(by, "group.create", format!("group/{id}"));
        change.detail = told(Some(&name), &members, &BTreeSet::new(), Some(&grants));
        let maker = subject_text(by.0.subject);
        let make = async move |tx: &mut Tx| {
            lock(tx, organisation).await?;
            let sql = "SELECT COUNT(*) AS there FROM people_group WHERE organisation = ?";
            let there: i64 = tx.query_one(sql, params![organisation]).await?.get("there")?;
            if there >= i64::from(max) {
                return Err(Error::Limit { what: "groups", max: max as usize });
            }
            check_name(tx, (organisation, id), &name).await?;
            let sql = "INSERT INTO people_group
                (id, organisation, name, outside_id, created_by, created, changed, version)
                VALUES (?, ?, ?, ?, ?, ?, ?, 0)";
            let values = params![id, organisation, name, outside, maker, now, now];
            tx.execute(sql, values).await?;
            set_grants(tx, (organisation, id), &grants).await?;
            for account in &members {
                add_member(tx, (organisation, id), *account, per_account).await?;
            }
            note(tx, &base, &change).await
        };
        self.settle(Whom::Group(id), async move { db.write(make).await }).await?;
        self.group(organisation, id).await
    }

    /// Changes a group, at once for everybody in it.
    pub async fn change_group(
        &self,
        by: By<'_>,
        id: GroupId,
        change: GroupChange,
    ) -> Result<Group, Error> {
        let inner = &self.0;
        let organisation = by.0.organisation;
        // Of a group that lets people do more, nobody makes anything who may not do that.
        self.check_group(by, id)?;
        let name = change.name.as_deref().map(normal_name).transpose()?;
        let outside = match &change.outside_id {
            Edit::Set(id) => Edit::Set(outside_id(id)?),
            other => other.clone(),
        };
        let grants = change.grants.map(|grants| self.grants_of_group(by, grants)).transpose()?;
        let (base, db) = (inner.base.clone(), inner.db.clone());
        let own = self.with_grants(by.0, <[Grant]>::to_vec);
        let (version, members) = (change.version, change.members);
        let per_account = inner.config.groups_per_account_max;
        let noted = Change::of(by, "group.change", format!("group/{id}"));
        let write = async move |tx: &mut Tx| {
            lock(tx, organisation).await?;
            let sql = "SELECT version FROM people_group WHERE id = ? AND organisation = ?";
            let row = tx.query_optional(sql, params![id, organisation]).await?;
            let now_version: i64 = row.ok_or(Error::NotThere("group"))?.get("version")?;
            check_group_still(tx, &own, id).await?;
            if version.is_some_and(|version| version != now_version) {
                return Err(Error::Changed);
            }
            let (add, remove) = member_changes(tx, id, members.as_ref()).await?;
            let is_same = add.is_empty() && remove.is_empty() && outside.is_kept();
            if is_same && name.is_none() && grants.is_none() {
                return Ok(());
            }
            if let Some(name) = &name {
                check_name(tx, (organisation, id), name).await?;
                let sql = "UPDATE people_group SET name = ? WHERE id = ?";
                tx.execute(sql, params![name, id]).await?;
            }
            if !outside.is_kept() {
                let sql = "UPDATE people_group SET outside_id = ? WHERE id = ?";
                tx.execute(sql, params![outside.set(), id]).await?;
            }
            if let Some(grants) = &grants {
                set_grants(tx, (organisation, id), grants).await?;
            }
            for account in &remove {
                let sql = "DELETE FROM group_member WHERE people_group = ? AND account = ?";
                tx.execute(sql, params![id, account]).await?;
                seen_anew(tx, *account).await?;
            }
            for account in &add {
                add_member(tx, (organisation, id), *account, per_account).await?;
            }
            let sql = "UPDATE people_group SET changed = ?, version = version + 1 WHERE id = ?";
            tx.execute(sql, params![base.clock.now(), id]).await?;
            let detail = told(name.as_deref(), &add, &remove, grants.as_deref());
            note(tx, &base, &Change { detail, ..noted.clone() }).await
        };
        self.settle(Whom::Group(id), async move { db.write(write).await }).await?;
        self.group(organisation, id).await
    }

    /// Ends a group; whoever was in it may do what it let them no more.
    pub async fn remove_group(&self, by: By<'_>, id: GroupId) -> Result<(), Error> {
        let organisation = by.0.organisation;
        self.check_group(by, id)?;
        let change = Change::of(by, "group.remove", format!("group/{id}"));
        let (base, db) = (self.0.base.clone(), self.0.db.clone());
        let own = self.with_grants(by.0, <[Grant]>::to_vec);
        let remove = async move |tx: &mut Tx| {
            lock(tx, organisation).await?;
            check_group_still(tx, &own, id).await?;
            let sql = "UPDATE account SET version = version + 1
                WHERE id IN (SELECT account FROM group_member WHERE people_group = ?)";
            tx.execute(sql, params![id]).await?;
            tx.execute("DELETE FROM group_member WHERE people_group = ?", params![id]).await?;
            tx.execute("DELETE FROM access_grant WHERE subject = ?", params![id]).await?;
            let sql = "DELETE FROM people_group WHERE id = ? AND organisation = ?";
            if tx.execute(sql, params![id, organisation]).await? == 0 {
                return Err(Error::NotThere("group"));
            }
            note(tx, &base, &change).await
        };
        self.settle(Whom::Group(id), async move { db.write(remove).await }).await
    }

    /// Whether the principal may do all that a group of their organisation lets people do.
    fn check_group(&self, by: By<'_>, id: GroupId) -> Result<(), Error> {
        let grants = {
            let live = self.0.live.read();
            let group = live.groups.get(&id);
            let group = group.filter(|group| group.organisation == by.0.organisation);
            group.ok_or(Error::NotThere("group"))?.grants.clone()
        };
        self.check_within(by.0, &grants)
    }

    /// Grants that a group can have: none is fine.
    fn grants_of_group(&self, by: By<'_>, grants: Vec<Grant>) -> Result<Vec<Grant>, Error> {
        if grants.is_empty() {
            return Ok(grants);
        }
        self.check_within(by.0, &grants)?;
        self.checked_grants(grants)
    }

    fn group_of(&self, row: &Row) -> Result<Group, Error> {
        let id = row.get("id")?;
        let live = self.0.live.read();
        Ok(Group {
            id,
            name: row.get("name")?,
            outside_id: row.get("outside_id")?,
            grants: live.groups.get(&id).map(|group| group.grants.clone()).unwrap_or_default(),
            members: usize::try_from(row.get::<i64>("members")?).unwrap_or(0),
            created: row.get("created")?,
            changed: row.get("changed")?,
            version: row.get("version")?,
        })
    }
}

/// Who comes and who goes, as rows are now.
async fn member_changes(
    tx: &mut Tx,
    id: GroupId,
    members: Option<&Members>,
) -> Result<(BTreeSet<AccountId>, BTreeSet<AccountId>), Error> {
    let Some(members) = members else { return Ok(Default::default()) };
    let sql = "SELECT account FROM group_member WHERE people_group = ?";
    let rows = tx.query(sql, params![id]).await?;
    let there = rows.iter().map(|row| row.get("account")).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(match members {
        Members::Are(wanted) => {
            let wanted: BTreeSet<AccountId> = wanted.iter().copied().collect();
            (&wanted - &there, &there - &wanted)
        }
        Members::Change { add, remove } => {
            let add: BTreeSet<AccountId> = add.iter().copied().collect();
            let remove: BTreeSet<AccountId> = remove.iter().copied().collect();
            (&add - &there, &remove & &there)
        }
    })
}

/// Somebody's groups are part of what is shown of them.
async fn seen_anew(tx: &mut Tx, account: AccountId) -> Result<(), Error> {
    let sql = "UPDATE account SET version = version + 1 WHERE id = ?";
    tx.execute(sql, params![account]).await?;
    Ok(())
}

/// Whether a group lets people do no more than whoever changes it may, as it is now in rows.
async fn check_group_still(tx: &mut Tx, own: &[Grant], id: GroupId) -> Result<(), Error> {
    let sql = "SELECT action, resource FROM access_grant WHERE subject = ? ORDER BY position";
    let rows = tx.query(sql, params![id]).await?;
    check_grants(own, &rows.iter().map(Grant::of).collect::<Result<Vec<_>, _>>()?)
}

async fn check_name(
    tx: &mut Tx,
    (organisation, id): (OrganisationId, GroupId),
    name: &str,
) -> Result<(), Error> {
    let sql = "SELECT 1 AS taken FROM people_group WHERE organisation = ? AND name = ? AND id <> ?";
    if tx.query_optional(sql, params![organisation, name, id]).await?.is_some() {
        return Err(Error::NameTaken("group"));
    }
    Ok(())
}

async fn set_grants(
    tx: &mut Tx,
    (organisation, id): (OrganisationId, GroupId),
    grants: &[Grant],
) -> Result<(), Error> {
    tx.execute("DELETE FROM access_grant WHERE subject = ?", params![id]).await?;
    insert_grants(tx, organisation, &id.to_string(), grants).await
}

async fn add_member(
    tx: &mut Tx,
    (organisation, id): (OrganisationId, GroupId),
    account: AccountId,
    groups_max: usize,
) -> Result<(), Error> {
    let sql = "SELECT COUNT(*) AS there FROM group_member WHERE account = ?";
    let there: i64 = tx.query_one(sql, params![account]).await?.get("there")?;
    if usize::try_from(there).unwrap_or(usize::MAX) >= groups_max {
        return Err(Error::Limit { what: "groups of one person", max: groups_max });
    }
    let sql = "SELECT 1 AS there FROM account
        WHERE id = ? AND organisation = ? AND removed IS NULL";
    if tx.query_optional(sql, params![account, organisation]).await?.is_none() {
        return Err(Error::NotThere("person"));
    }
    let sql = "SELECT 1 AS there FROM group_member WHERE people_group = ? AND account = ?";
    if tx.query_optional(sql, params![id, account]).await?.is_none() {
        let sql = "INSERT INTO group_member (people_group, account, organisation) VALUES (?, ?, ?)";
        tx.execute(sql, params![id, account, organisation]).await?;
        seen_anew(tx, account).await?;
    }
    Ok(())
}

/// For the audit log: its name, who came, who went, and what the group lets people do now.
fn told(
    name: Option<&str>,
    add: &BTreeSet<AccountId>,
    remove: &BTreeSet<AccountId>,
    grants: Option<&[Grant]>,
) -> String {
    let people = |sign: char, people: &BTreeSet<AccountId>| {
        people.iter().map(|id| format!("{sign}account:{id}")).collect::<Vec<_>>()
    };
    let mut parts: Vec<String> = name.map(|name| format!("named {name:?}")).into_iter().collect();
    parts.extend(grants.map(|grants| {
        let grants = grants.iter().map(|it| format!("{} on {}", it.action, it.resource));
        format!("lets {}", grants.collect::<Vec<_>>().join(", "))
    }));
    // Last, for it may be cut.
    parts.extend(people('+', add));
    parts.extend(people('-', remove));
    parts.join("; ")
}
