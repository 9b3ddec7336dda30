//! What jobs promise, on each database that can hold them: the embedded one, a real PostgreSQL, a real MariaDB.
//! A database that is not there fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what went wrong by ending there"
)]
#![allow(clippy::print_stderr, reason = "a test of many cases says which one it is in")]

mod deaths;
mod graphs;
mod ground;
mod limits;
mod proofs;
mod single;
mod times;

use ground::Ground;
use testkit::{Databases, cases};

async fn contract(ground: &Ground) {
    cases!(
        ground;
        single::a_job_runs_once_its_transaction_is_committed_and_never_when_it_is_not,
        single::a_key_is_one_job_however_many_ask_at_once,
        single::a_failed_job_is_tried_again_until_it_is_dead_and_then_by_hand,
        single::a_panic_and_a_handler_without_end_are_failures,
        single::a_job_that_can_never_succeed_is_dead_at_once_and_one_that_is_early_waits,
        single::the_urgent_come_first_then_the_early,
        single::a_cancelled_job_does_not_begin_and_a_running_one_stops,
        single::a_paused_queue_begins_nothing_and_the_others_go_on,
        single::an_organisation_sees_and_touches_only_its_own,
        single::lists_are_pages_by_state_and_kind,
        single::what_an_attempt_noted_is_kept_though_its_transaction_failed,
        limits::a_key_and_a_kind_run_as_many_as_they_may_and_none_is_forgotten,
        limits::an_organisation_with_many_jobs_lets_the_others_have_their_turn,
        limits::what_is_too_large_or_unknown_is_refused,
        limits::a_job_that_ended_where_its_kind_is_unknown_holds_no_limit,
        limits::jobs_that_a_limit_holds_back_count_as_waiting,
        graphs::a_chain_of_forty_light_tasks_takes_a_fifth_of_a_second,
        graphs::a_task_begins_when_all_that_it_comes_after_are_done,
        graphs::what_comes_after_a_failure_is_skipped_and_resumes_with_its_retry,
        graphs::a_cancelled_task_takes_those_behind_it_along_and_comes_back,
        times::a_delayed_job_begins_on_time_and_at_once_when_asked,
        times::a_schedule_enqueues_each_of_its_times_once,
        times::finished_jobs_are_forgotten_in_their_time,
        times::an_attempt_is_told_the_same_time_however_often_it_is_tried,
        times::a_ready_job_begins_though_the_clock_was_set_back,
        deaths::a_dead_workers_job_runs_again_and_its_late_end_is_refused,
        deaths::none_is_lost_or_done_twice_while_workers_die_again_and_again,
        deaths::a_stopping_worker_gives_back_what_it_has,
        deaths::a_delayed_job_of_a_dead_worker_begins_on_its_time,
        deaths::a_server_that_stops_repeats_nothing_that_is_done,
        deaths::a_late_end_is_refused_by_its_place_and_by_its_number,
    );
}

/// Only where several servers can share one database.
async fn shared(ground: &Ground) {
    cases!(
        ground;
        deaths::two_servers_share_the_work_and_do_each_job_once,
        deaths::cut_connections_lose_nothing_and_double_nothing,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_keep_the_contract_on_the_embedded_database() {
    contract(&Ground(Databases::embedded().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_keep_the_contract_on_postgresql() {
    let mut ground = Ground(Databases::postgres().unwrap());
    contract(&ground).await;
    shared(&ground).await;
    deaths::a_crash_of_the_database_loses_nothing_and_doubles_nothing(&mut ground).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_keep_the_contract_on_mariadb() {
    let mut ground = Ground(Databases::mariadb().unwrap());
    contract(&ground).await;
    shared(&ground).await;
    deaths::a_crash_of_the_database_loses_nothing_and_doubles_nothing(&mut ground).await;
}
