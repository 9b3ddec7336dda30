use super::*;

#[test]
fn a_wider_span_says_what_its_minutes_say() {
    let cell = |second: i64, value| Cell::of(Timestamp::from_micros(second * 1_000_000), value);
    let mut minutes = BTreeMap::new();
    for (second, value) in [(0, 3.0), (59, 1.0), (60, 7.0), (3_599, 2.0), (3_600, 5.0), (30, 4.0)] {
        add(&mut minutes, Width::Minute, second * 1_000_000, &cell(second, value));
    }
    assert_eq!(minutes.len(), 4);
    assert_eq!(
        minutes[&0],
        Cell { count: 3, min: 1.0, max: 4.0, sum: 8.0, ..cell(59, 1.0) },
        "the last one is the latest by its time"
    );
    let series = (Box::from("a"), Box::from("t"));
    let hours = &wider(&Cells::from([(series.clone(), minutes)]), Width::Hour)[&series];
    assert_eq!(hours[&0], Cell { count: 5, min: 1.0, max: 7.0, sum: 17.0, ..cell(3_599, 2.0) });
    assert_eq!(hours[&3_600_000_000], cell(3_600, 5.0));
}

#[test]
fn a_retention_of_no_days_is_a_fault() {
    let with = |raw_days, day_days| Retention { raw_days, day_days, ..Retention::default() };
    assert_eq!(with(None, None).fault(), None);
    assert_eq!(with(Some(1), Some(36_500)).fault(), None);
    assert_eq!(with(Some(0), None).fault(), Some("raw_days"));
    assert_eq!(with(None, Some(36_501)).fault(), Some("day_days"));
}
