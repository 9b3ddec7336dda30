//! What tables there are, in words that are the same on every database.

use std::collections::{BTreeMap, BTreeSet};

use crate::dialect::Dialect;
use crate::{Db, Error, Read, Row};

impl Db {
    /// Every column, key, index and reference as one line each: `rooms.name varchar(40) not null`.
    pub async fn describe(&self) -> Result<BTreeSet<String>, Error> {
        self.read(async |read| describe(read).await).await
    }
}

/// Each gives the same columns, so that one reading serves all.
struct Questions {
    columns: &'static str,
    indexes: &'static str,
    references: &'static str,
}

async fn describe(read: &mut Read) -> Result<BTreeSet<String>, Error> {
    let questions = match read.session.dialect() {
        Dialect::Sqlite => SQLITE,
        Dialect::Postgres => POSTGRES,
        Dialect::MySql => MYSQL,
    };
    let mut lines = BTreeSet::new();
    for row in read.query(questions.columns, &[]).await? {
        lines.insert(column(&row)?);
    }
    let mut indexes: BTreeMap<(String, String), (i64, Vec<String>)> = BTreeMap::new();
    for row in read.query(questions.indexes, &[]).await? {
        let index = (row.get("room")?, row.get("name")?);
        let (kind, columns) = indexes.entry(index).or_default();
        *kind = row.get("kind")?;
        columns.push(row.get("part")?);
    }
    for ((table, name), (kind, columns)) in indexes {
        let columns = columns.join(", ");
        lines.insert(match kind {
            2 => format!("{table} key ({columns})"),
            1 => format!("{table} unique ({columns})"),
            _ => format!("{table} index {name} ({columns})"),
        });
    }
    for row in read.query(questions.references, &[]).await? {
        let (table, part): (String, String) = (row.get("room")?, row.get("part")?);
        lines.insert(format!("{table} reference {part} to {}", row.get::<String>("other")?));
    }
    Ok(lines)
}

fn column(row: &Row) -> Result<String, Error> {
    let (table, name): (String, String) = (row.get("room")?, row.get("name")?);
    let found: String = row.get("type_name")?;
    let found = found.to_ascii_lowercase();
    let (word, _) = found.split_once('(').unwrap_or((&found, ""));
    let length = match row.get::<Option<i64>>("length")? {
        Some(length) => length.to_string(),
        None => found.split(['(', ')']).nth(1).unwrap_or_default().to_owned(),
    };
    let word = match word {
        "integer" | "bigint" => "bigint".to_owned(),
        "text" | "longtext" => "text".to_owned(),
        "blob" | "bytea" | "longblob" => "blob".to_owned(),
        "double" | "double precision" => "double".to_owned(),
        "varchar" | "character varying" => format!("varchar({length})"),
        other => other.to_owned(),
    };
    let null = if row.get::<i64>("is_required")? == 1 { "not null" } else { "null" };
    Ok(format!("{table}.{name} {word} {null}"))
}

const SQLITE: Questions = Questions {
    columns: "SELECT m.name AS room, c.name AS name, c.type AS type_name, NULL AS length,
            CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN 1 ELSE 0 END AS is_required
        FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
    indexes: "SELECT m.name AS room, 'primary' AS name, c.name AS part, 2 AS kind, c.pk AS place
        FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.pk > 0
        UNION ALL
        SELECT m.name, i.name, x.name, i.\"unique\", x.seqno
        FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) x
        WHERE m.type = 'table' AND i.origin <> 'pk' ORDER BY 1, 2, 5",
    references: "SELECT m.name AS room, f.\"from\" AS part, f.\"table\" AS other
        FROM sqlite_master m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table'",
};

const POSTGRES: Questions = Questions {
    columns: "SELECT CAST(table_name AS TEXT) AS room, CAST(column_name AS TEXT) AS name,
            CAST(data_type AS TEXT) AS type_name, CAST(character_maximum_length AS BIGINT) AS length,
            CASE WHEN is_nullable = 'NO' THEN 1 ELSE 0 END AS is_required
        FROM information_schema.columns WHERE table_schema = current_schema()",
    indexes: "SELECT CAST(t.relname AS TEXT) AS room, CAST(i.relname AS TEXT) AS name,
            CAST(a.attname AS TEXT) AS part,
            CASE WHEN x.indisprimary THEN 2 WHEN x.indisunique THEN 1 ELSE 0 END AS kind
        FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
        JOIN pg_namespace s ON s.oid = t.relnamespace
        CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
        WHERE s.nspname = current_schema() ORDER BY t.relname, i.relname, k.place",
    references: "SELECT CAST(t.relname AS TEXT) AS room, CAST(a.attname AS TEXT) AS part,
            CAST(o.relname AS TEXT) AS other
        FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_class o ON o.oid = c.confrelid
        JOIN pg_namespace s ON s.oid = t.relnamespace
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (c.conkey)
        WHERE c.contype = 'f' AND s.nspname = current_schema()",
};

const MYSQL: Questions = Questions {
    columns: "SELECT table_name AS room, column_name AS name, data_type AS type_name,
            character_maximum_length AS length,
            CASE WHEN is_nullable = 'NO' THEN 1 ELSE 0 END AS is_required
        FROM information_schema.columns WHERE table_schema = DATABASE()",
    // An index that a reference made for itself bears the reference's name.
    indexes: "SELECT s.table_name AS room, s.index_name AS name, s.column_name AS part,
            CASE WHEN s.index_name = 'PRIMARY' THEN 2 ELSE 1 - s.non_unique END AS kind
        FROM information_schema.statistics s
        WHERE s.table_schema = DATABASE() AND s.index_name NOT IN (
            SELECT r.constraint_name FROM information_schema.referential_constraints r
            WHERE r.constraint_schema = DATABASE() AND r.table_name = s.table_name)
            AND NOT EXISTS (
                SELECT 1 FROM information_schema.key_column_usage k
                WHERE k.table_schema = DATABASE() AND k.table_name = s.table_name
                AND k.column_name = s.column_name AND k.referenced_table_name IS NOT NULL
                AND s.index_name = k.column_name)
        ORDER BY s.table_name, s.index_name, s.seq_in_index",
    references: "SELECT table_name AS room, column_name AS part, referenced_table_name AS other
        FROM information_schema.key_column_usage
        WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL",
};
