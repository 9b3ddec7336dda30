use std::sync::Arc;

use base::access::Subject;

use crate::frame::{Fault, shown};

/// Where a message goes, or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// `/topic/NAME`: to everybody who subscribes.
    Topic(Arc<str>),
    /// `/queue/NAME`: to one of those who subscribe.
    Queue(Arc<str>),
    /// `/user/queue/NAME`: to all connections of whoever subscribes.
    Own(Arc<str>),
    /// `/user/ID/queue/NAME`: the same, as others send to it.
    Of { holder: Arc<str>, name: Arc<str> },
}

impl Destination {
    pub(crate) fn parse(text: &str, bytes_max: usize) -> Result<Self, Fault> {
        let unknown = || {
            let text = shown(text);
            format!("{text:?} is neither /topic/NAME, /queue/NAME nor /user/queue/NAME")
        };
        if text.len() > bytes_max {
            return Err(format!("the destination is larger than {bytes_max} bytes").into());
        }
        if text.contains(['*', '#', '>']) {
            return Err(format!("{:?}: wildcards are not supported", shown(text)).into());
        }
        let is_name = |name: &str| {
            !name.split('/').any(str::is_empty)
                && !name.contains(|letter: char| letter.is_control() || letter.is_whitespace())
        };
        let found = if let Some(name) = text.strip_prefix("/topic/") {
            (name, Self::Topic(name.into()))
        } else if let Some(name) = text.strip_prefix("/queue/") {
            (name, Self::Queue(name.into()))
        } else if let Some(name) = text.strip_prefix("/user/queue/") {
            (name, Self::Own(name.into()))
        } else {
            let of = text.strip_prefix("/user/").and_then(|rest| rest.split_once("/queue/"));
            let (holder, name) = of.ok_or_else(unknown)?;
            if !is_name(holder) || holder.contains('/') {
                return Err(unknown().into());
            }
            (name, Self::Of { holder: holder.into(), name: name.into() })
        };
        if is_name(found.0) { Ok(found.1) } else { Err(unknown().into()) }
    }

    /// What grants are about.
    pub(crate) fn resource(&self) -> String {
        match self {
            Self::Topic(name) => format!("sockets/topic/{name}"),
            Self::Queue(name) => format!("sockets/queue/{name}"),
            Self::Own(name) => format!("sockets/user/{name}"),
            Self::Of { holder, name } => format!("sockets/users/{holder}/{name}"),
        }
    }

    /// The name under which a topic is in the log; nothing for a queue.
    pub(crate) fn channel(&self, subject: Subject) -> Option<Arc<str>> {
        match self {
            Self::Topic(name) => Some(format!("topic/{name}").into()),
            Self::Own(name) => Some(format!("user/{}/{name}", holder(subject)).into()),
            Self::Of { holder, name } => Some(format!("user/{holder}/{name}").into()),
            Self::Queue(_) => None,
        }
    }
}

/// A channel of the log as its subscribers write it.
pub(crate) fn shown_to_subscriber(channel: &str) -> String {
    match channel.strip_prefix("user/").and_then(|rest| rest.split_once('/')) {
        Some((_, name)) => format!("/user/queue/{name}"),
        None => format!("/{channel}"),
    }
}

/// An account or a key as a destination names it: its id.
pub(crate) fn holder(subject: Subject) -> String {
    match subject {
        Subject::Account(id) => id.to_string(),
        Subject::Key(id) => id.to_string(),
        Subject::System(part) => part.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_topic_a_queue_or_a_user_s_queue() {
        let check = |text: &str| Destination::parse(text, 50).map(|it| it.resource()).ok();
        for (text, resource) in [
            ("/topic/a", Some("sockets/topic/a")),
            ("/topic/greetings/7", Some("sockets/topic/greetings/7")),
            ("/topic/강의.7", Some("sockets/topic/강의.7")),
            ("/queue/mails", Some("sockets/queue/mails")),
            ("/user/queue/alarms", Some("sockets/user/alarms")),
            ("/user/7/queue/alarms", Some("sockets/users/7/alarms")),
            ("/topic/", None),
            ("/topic/a//b", None),
            ("/topic/a/", None),
            ("/topic/a b", None),
            ("/topic/a\nb", None),
            ("/topic/*", None),
            ("/topic/a.#", None),
            ("/topic/a.>", None),
            ("topic/a", None),
            ("/exchange/a", None),
            ("/user/a/b/queue/c", None),
            ("/user//queue/c", None),
            ("", None),
        ] {
            assert_eq!(check(text).as_deref(), resource, "{text:?}");
        }
        assert_eq!(check(&format!("/topic/{}", "a".repeat(50))), None, "longer than allowed");
    }

    #[test]
    fn somebody_s_own_queue_is_the_one_that_others_send_to() {
        let subject = Subject::Key(base::KeyId::fixed(7));
        let own = Destination::parse("/user/queue/alarms", 100).unwrap();
        let others = format!("/user/{}/queue/alarms", holder(subject));
        let others = Destination::parse(&others, 100).unwrap();
        let stranger = Subject::Key(base::KeyId::fixed(8));
        assert_eq!(own.channel(subject), others.channel(stranger));
        assert_ne!(own.channel(subject), own.channel(stranger));
        let channel = own.channel(subject).unwrap();
        assert_eq!(shown_to_subscriber(&channel), "/user/queue/alarms");
        assert_eq!(shown_to_subscriber("topic/a/b"), "/topic/a/b");
    }
}
