//! What a topic and a filter may look like: MQTT 5, section 4.7.

/// Bytes of a topic or a filter: so many fit into a key of every database that keeps the retained messages
/// and the subscriptions.
pub(crate) const BYTES_MAX: usize = 700;

/// Whether a client may publish to it. Topics that begin with `$` belong to the server (4.7.2).
pub(crate) fn is_topic(topic: &str, levels_max: usize) -> bool {
    !topic.starts_with('$') && is_server_topic(topic, levels_max)
}

/// Whether the server itself may publish to it.
pub(crate) fn is_server_topic(topic: &str, levels_max: usize) -> bool {
    !topic.is_empty()
        && topic.len() <= BYTES_MAX
        && !topic.contains(['+', '#', '\0'])
        && topic.split('/').count() <= levels_max
}

/// Whether it is a well-formed filter: `#` only as the last level, `+` only as a whole level.
pub(crate) fn is_filter(filter: &str, levels_max: usize) -> bool {
    let fits = !filter.is_empty() && filter.len() <= BYTES_MAX && !filter.contains('\0');
    if !fits || filter.split('/').count() > levels_max {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level == "#" {
            return levels.peek().is_none();
        }
        if level != "+" && level.contains(['+', '#']) {
            return false;
        }
    }
    true
}

/// A subscription that its holders would share; refused.
pub(crate) fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// Compares one filter with one topic, level by level.
#[cfg(test)]
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    for (position, level) in filter.iter().enumerate() {
        if *level == "#" {
            return true;
        }
        if position >= topic.len() || (*level != "+" && *level != topic[position]) {
            return false;
        }
    }
    filter.len() == topic.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_filters_follow_the_rules() {
        for topic in ["a", "/", "a//b", "data/roof-1", "a b/ü", "a/$SYS"] {
            assert!(is_topic(topic, 8), "{topic}");
        }
        for topic in ["", "a/+", "#", "a#", "$SYS/x", "a\0b", "1/2/3/4/5/6/7/8/9"] {
            assert!(!is_topic(topic, 8), "{topic}");
        }
        for filter in ["#", "+", "a/#", "+/b/#", "/", "+//+", "$SYS/#", "a/+/"] {
            assert!(is_filter(filter, 8), "{filter}");
        }
        for filter in ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "\0", "1/2/3/4/5/6/7/8/9"] {
            assert!(!is_filter(filter, 8), "{filter}");
        }
    }

    #[test]
    fn filters_match_as_the_table_in_the_standard_says() {
        let truth = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("a/b", "a/B", false),
            ("a", "a/", false),
        ];
        for (filter, topic, expected) in truth {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }
}
