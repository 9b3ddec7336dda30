//! The whole stack with its rows in another database than its own.

use std::collections::BTreeSet;

use base::Base;
use relational::{Address, Config, Db};
use testkit::Database;

use crate::{contract, launch, oidc};

/// Every flow on a database of its own; gives the tables that all rooms made in the last one.
fn the_stack_works(database: &Database) -> BTreeSet<String> {
    let flows = [
        contract::first_reading,
        contract::mails_are_kept,
        contract::done_once,
        oidc::a_whole_log_in,
    ]
    .into_iter();
    let mut last = String::new();
    for (number, flow) in flows.enumerate() {
        let folder = tempfile::tempdir().unwrap();
        last = database.make(&format!("stack{number}")).unwrap();
        flow(&launch(&folder).environment("MADANG__RELATIONAL__URL", &last));
        let own = folder.path().join("data/rows/rows.db");
        assert!(!own.exists(), "the rows went into the stack's own database");
    }
    described(Config { url: Address::new(last), ..Config::default() })
}

fn described(config: Config) -> BTreeSet<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = Db::open(config, &Base::system()).await.unwrap();
        let tables = db.describe().await.unwrap();
        db.close().await;
        tables
    })
}

#[test]
fn the_stack_works_on_other_databases_with_the_same_tables() {
    let on_postgres = the_stack_works(&Database::postgres().unwrap());
    let on_mariadb = the_stack_works(&Database::mariadb().unwrap());
    let folder = tempfile::tempdir().unwrap();
    launch(&folder).start().unwrap().terminate().unwrap();
    let path = folder.path().join("data/rows/rows.db");
    let embedded = described(Config { path, ..Config::default() });
    assert!(embedded.len() > 100, "{embedded:#?}");
    for (name, tables) in [("PostgreSQL", on_postgres), ("MariaDB", on_mariadb)] {
        let missing: Vec<_> = embedded.difference(&tables).collect();
        let more: Vec<_> = tables.difference(&embedded).collect();
        assert!(missing.is_empty() && more.is_empty(), "{name} lacks {missing:#?}, has {more:#?}");
    }
}
