//! The acceptance lines with small counts; `cargo xtask prove` runs the same at full count.

use testkit::proofs::{Ground, Proof, Size, devices, first, identity, people, spine, work};

use crate::binary;

fn holds(proof: Proof) {
    let ground = Ground::test(binary());
    assert_eq!(ground.size, Size::Test);
    let report = proof(&ground).unwrap();
    for figure in &report.figures {
        eprintln!("{figure}");
    }
    assert!(report.short.is_empty(), "{:#?}", report.short);
}

#[test]
fn every_acknowledged_reading_survives_kill_9() {
    holds(first::kill);
}

/// A machine that does something else meanwhile can spoil a run, but not each of three.
#[test]
fn one_reading_goes_all_the_way_in_time() {
    let ground = Ground::test(binary());
    let mut short = Vec::new();
    for _ in 0..3 {
        short = first::one_reading(&ground).unwrap().short;
        if short.is_empty() {
            return;
        }
    }
    panic!("{short:#?}");
}

#[test]
fn an_idle_stack_is_small_and_ends_politely() {
    holds(first::idle);
}

#[test]
fn strangers_are_refused_at_every_operation() {
    holds(first::strangers);
}

#[test]
fn every_action_by_every_door_is_for_those_it_was_granted_to() {
    holds(identity::rights);
}

#[test]
fn what_is_revoked_ends_within_a_second_at_every_door() {
    holds(identity::revoked);
}

#[test]
fn what_attackers_try_opens_and_tells_nothing() {
    holds(identity::attack);
}

#[test]
fn people_come_in_by_others_by_us_and_by_passkeys() {
    holds(identity::providers);
}

#[test]
fn keys_are_checked_while_people_log_in() {
    holds(identity::speed);
}

#[test]
fn a_newcomer_does_everything_in_the_browser() {
    holds(first::first_hour);
}

#[test]
fn everything_acknowledged_survives_power_cuts() {
    holds(spine::power_cut);
}

#[test]
fn a_missing_fsync_is_noticed_after_power_cuts() {
    holds(spine::power_cut_fails);
}

#[test]
fn a_full_or_failing_disk_is_refused_and_left_behind() {
    holds(spine::disk);
}

#[test]
fn no_message_is_lost_among_faults_and_kills() {
    holds(work::delivery);
}

#[test]
fn ten_thousand_sockets_are_small_and_a_cut_one_misses_nothing() {
    holds(work::sockets);
}

#[test]
fn a_rule_that_is_changed_under_load_meets_no_reading_with_its_former_text() {
    holds(devices::rules);
}

#[test]
fn both_roles_work_with_devices_in_the_browser() {
    holds(devices::console);
}

#[test]
fn a_crowd_of_writers_loses_nothing_and_counts_right() {
    holds(people::crowd);
}

#[test]
fn a_long_thread_is_read_from_the_rows_and_from_memory() {
    holds(people::thread_speed);
}

#[test]
fn people_are_found_by_an_index_of_every_database() {
    holds(people::people);
}

#[test]
fn two_windows_of_another_origin_talk_through_the_widget() {
    holds(people::embed);
}

#[test]
fn the_widget_is_small_and_quick_and_takes_comments_of_elsewhere() {
    holds(people::widget);
}

#[test]
fn a_backlog_of_readings_is_taken_once() {
    holds(devices::pipeline);
}

#[test]
fn nobody_is_shown_an_article_that_is_older_than_what_was_acknowledged() {
    holds(people::articles_speed);
}

#[test]
fn a_fleet_that_comes_back_at_once_is_let_in_and_heard() {
    holds(devices::fleet);
}

#[test]
fn a_broker_with_too_much_to_do_drops_nothing_silently() {
    holds(devices::mosquitto_beside);
}

#[test]
fn two_consumers_lose_nothing_when_they_are_killed() {
    holds(devices::two_consumers);
}

#[test]
fn a_bad_night_raises_the_alerts_of_a_recount() {
    holds(devices::night);
}

#[test]
fn mqtt_clients_find_a_broker() {
    holds(devices::clients);
}
