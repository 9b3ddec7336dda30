use base::Base;

use crate::ground::Ground;

#[path = "../../examples/no_event_lost/flow.rs"]
mod flow;

pub(crate) async fn no_event_is_lost_while_relay_and_handler_are_killed(ground: &Ground) {
    let folder = tempfile::tempdir().unwrap();
    let (_, config) = ground.fresh();
    let base = Base::system();
    let log = folder.path().join("log");
    let outcome = flow::run(config, &log, &base, 3_000, 5).await.unwrap();
    eprintln!("{outcome}");
    assert_eq!(outcome.told, 3_000);
    assert!(outcome.relay_kills + outcome.handler_kills > 0);
    let faults: Vec<String> = outcome.faults().collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
