//! What rows promise, on each database that can hold them: the embedded one, a real PostgreSQL, a real
//! MariaDB. A database that is not there fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what went wrong by ending there"
)]
#![allow(clippy::print_stderr, reason = "a test of many cases says which one it is in")]

mod events;
mod faults;
mod ground;
mod isolation;
mod nodes;
mod schema;
mod statements;

use ground::Ground;
use testkit::{Databases, cases};

async fn contract(ground: &Ground) {
    cases!(
        ground;
        statements::values_come_back_as_they_went_in,
        statements::errors_have_one_kind_everywhere,
        statements::what_a_closure_may_not_do_is_refused,
        statements::pages_show_every_row_once_while_others_write,
        statements::texts_are_ordered_by_their_bytes,
        statements::what_is_said_for_later_is_in_order_and_its_mistake_ends_the_transaction,
        isolation::write_skew_is_impossible,
        isolation::a_thousand_callers_issue_one_coupon,
        isolation::a_rule_over_many_rows_holds_while_all_are_added_at_once,
        isolation::a_counter_misses_nobody,
        isolation::a_read_sees_one_moment,
        isolation::events_of_a_key_are_told_in_the_order_of_their_commits,
        faults::a_statement_that_takes_too_long_is_ended,
        faults::a_closure_that_goes_wrong_keeps_nothing,
        schema::migrations_are_applied_once_and_refused_when_they_differ,
        events::no_event_is_lost_while_relay_and_handler_are_killed,
    );
}

/// Only where several servers can share one database.
async fn shared(ground: &Ground) {
    cases!(
        ground;
        schema::servers_that_start_together_migrate_once,
        nodes::a_dead_holder_on_another_server_is_replaced_and_its_late_write_refused,
        nodes::events_of_another_server_are_relayed,
        nodes::commands_of_two_servers_are_carried_out_once_and_in_order,
        faults::cut_connections_lose_nothing_and_double_nothing,
        faults::an_address_where_nobody_answers_is_refused_without_its_password,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_database_keeps_the_contract() {
    contract(&Ground(Databases::embedded().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_keeps_the_contract() {
    let mut ground = Ground(Databases::postgres().unwrap());
    contract(&ground).await;
    shared(&ground).await;
    faults::a_crash_of_the_server_loses_nothing_that_was_acknowledged(&mut ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_keeps_the_contract() {
    let mut ground = Ground(Databases::mariadb().unwrap());
    contract(&ground).await;
    shared(&ground).await;
    schema::a_migration_that_was_interrupted_goes_on(&ground).await;
    faults::a_crash_of_the_server_loses_nothing_that_was_acknowledged(&mut ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_work_is_the_same_number_of_statements_and_the_same_tables() {
    let grounds = [
        Ground(Databases::embedded().unwrap()),
        Ground(Databases::postgres().unwrap()),
        Ground(Databases::mariadb().unwrap()),
    ];
    statements::counts_are_equal(&grounds).await;
    schema::tables_are_equal(&grounds).await;
}
