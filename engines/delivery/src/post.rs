//! From an event to a request, and from an answer to what becomes of the message. The body is written once, so every
//! attempt has the same bytes.

use base::Timestamp;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::egress::{Answer, Client, Request, Target};
use crate::store::{Destination, Health};
use crate::{Channel, signature};

/// What a webhook gets, as the Standard Webhooks specification shapes it.
#[derive(Serialize)]
struct WebhookBody<'a> {
    r#type: &'a str,
    timestamp: String,
    data: &'a Value,
}

/// What Slack gets.
#[derive(Serialize)]
struct SlackBody {
    text: String,
}

/// The bytes that tell of an event on a channel.
pub(crate) fn body(
    channel: Channel,
    (event_type, occurred): (&str, Timestamp),
    text: &str,
    data: &Value,
) -> String {
    let written = match channel {
        Channel::Slack => serde_json::to_string(&SlackBody { text: escaped(text) }),
        Channel::Webhook | Channel::Email => serde_json::to_string(&WebhookBody {
            r#type: event_type,
            timestamp: occurred.to_string(),
            data,
        }),
    };
    written.expect("texts and JSON always become JSON")
}

/// Slack's three signs, so that no device's name mentions a channel or hides a link.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How one attempt went, before anybody decides what follows.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) verdict: Verdict,
    pub(crate) health: Health,
    pub(crate) status: Option<u16>,
    pub(crate) answer: Option<String>,
}

/// What an attempt means for its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    Later(String),
    Never(String),
}

/// What is posted, and when.
pub(crate) struct Parcel<'a> {
    pub(crate) message_id: &'a str,
    pub(crate) body: &'a str,
    pub(crate) at: Timestamp,
}

/// How answers are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) answer_chars_max: usize,
    pub(crate) retry_after_max: std::time::Duration,
}

pub(crate) async fn post(
    client: &Client,
    destination: &Destination,
    parcel: &Parcel<'_>,
    reading: Reading,
) -> Posted {
    // The rules may have changed since the URL was written.
    let target = match Target::parse(&destination.url, client.egress()) {
        Ok(target) => target,
        Err(error) => return unanswered(error.to_string()),
    };
    let mut headers = Vec::new();
    if destination.channel == Channel::Webhook {
        let Parcel { message_id, body, at } = *parcel;
        let signed = signature::header(&destination.secrets, message_id, at, body.as_bytes());
        headers.push(("webhook-id", message_id.to_owned()));
        headers.push(("webhook-timestamp", signature::seconds(at).to_string()));
        headers.push(("webhook-signature", signed));
    }
    let request = Request {
        target: &target,
        content_type: "application/json",
        headers,
        body: Bytes::copy_from_slice(parcel.body.as_bytes()),
    };
    match client.post(&request).await {
        Ok(answer) => judge(destination.channel, &answer, parcel.at, reading),
        Err(error) => unanswered(error.to_string()),
    }
}

fn unanswered(reason: String) -> Posted {
    Posted {
        verdict: Verdict::Later(reason),
        health: Health::Unwell { retry_after: None },
        status: None,
        answer: None,
    }
}

/// What an answer means, by the specification of Standard Webhooks and by what Slack documents.
fn judge(channel: Channel, answer: &Answer, now: Timestamp, reading: Reading) -> Posted {
    let said = said(answer, reading.answer_chars_max);
    let status = answer.status;
    let what = match said.as_deref() {
        // Slack says why in a word; a webhook's body may be anything.
        Some(word) if channel == Channel::Slack => format!("the answer was {status}: {word}"),
        _ => format!("the answer was {status}"),
    };
    let asked = answer.retry_after.as_deref();
    let retry_after =
        asked.and_then(|text| crate::schedule::retry_after(text, now, reading.retry_after_max));
    let unwell = Health::Unwell { retry_after };
    let (verdict, health) = match (status, channel) {
        (200..=299, _) => (Verdict::Taken, Health::Well),
        (300..=399, _) => {
            let reason = format!("{what}, a redirect, which is not followed: change the URL");
            (Verdict::Later(reason), unwell)
        }
        // Nothing that is posted there will be taken until somebody changes the endpoint.
        (410, _) | (403 | 404, Channel::Slack) => {
            (Verdict::Later(what.clone()), Health::Gone(what))
        }
        // Slack cannot read this message; the next one may be fine.
        (400, Channel::Slack) => (Verdict::Never(what), Health::Silent),
        _ => (Verdict::Later(what), unwell),
    };
    Posted { verdict, health, status: Some(status), answer: said }
}

/// The first characters of an answer, on one line.
fn said(answer: &Answer, chars_max: usize) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.body);
    let mut line: String = crate::mail::one_line(&text).chars().take(chars_max).collect();
    if answer.is_cut && !line.is_empty() {
        line.push('…');
    }
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after: None, body: body.into(), is_cut: false }
    }

    fn judged(channel: Channel, answer: &Answer) -> Posted {
        let reading = Reading { answer_chars_max: 20, retry_after_max: Duration::from_secs(100) };
        judge(channel, answer, NOW, reading)
    }

    #[test]
    fn a_webhooks_body_has_type_timestamp_and_data() {
        let data = json!({"b": 1, "a": "<x>"});
        let occurred = Timestamp::from_millis(1_357_034_400_000);
        let written = body(Channel::Webhook, ("alert.raised", occurred), "ignored", &data);
        assert_eq!(
            written,
            r#"{"type":"alert.raised","timestamp":"2013-01-01T10:00:00Z","data":{"b":1,"a":"<x>"}}"#
        );
    }

    #[test]
    fn a_text_to_slack_mentions_nobody() {
        let written = body(Channel::Slack, ("a", NOW), "<!channel> & \"지붕\"", &json!(1));
        assert_eq!(written, r#"{"text":"&lt;!channel&gt; &amp; \"지붕\""}"#);
    }

    #[test]
    fn two_hundreds_are_taken_and_everything_else_is_not() {
        for channel in [Channel::Webhook, Channel::Slack] {
            for status in [200, 201, 202, 204, 299] {
                let posted = judged(channel, &answer(status, "ok"));
                assert_eq!((posted.verdict, posted.health), (Verdict::Taken, Health::Well));
            }
            for status in [301, 302, 307, 408, 429, 500, 502, 503, 504] {
                let posted = judged(channel, &answer(status, ""));
                assert!(matches!(posted.verdict, Verdict::Later(_)), "{status}");
                assert_eq!(posted.health, Health::Unwell { retry_after: None }, "{status}");
            }
            let posted = judged(channel, &answer(410, ""));
            assert!(matches!(posted.health, Health::Gone(_)));
        }
        for status in [400, 401, 403, 404, 422] {
            let posted = judged(Channel::Webhook, &answer(status, "secret"));
            assert_eq!(posted.verdict, Verdict::Later(format!("the answer was {status}")));
        }
    }

    #[test]
    fn slacks_words_decide_about_the_message_or_about_the_endpoint() {
        let posted = judged(Channel::Slack, &answer(400, "invalid_payload"));
        let reason = "the answer was 400: invalid_payload".to_owned();
        assert_eq!((posted.verdict, posted.health), (Verdict::Never(reason), Health::Silent));
        let words = [
            (403, "action_prohibited"),
            (404, "channel_not_found"),
            (404, "no_service"),
            (410, "channel_is_archived"),
        ];
        for (status, word) in words {
            let posted = judged(Channel::Slack, &answer(status, word));
            let gone = Health::Gone(format!("the answer was {status}: {word}"));
            assert_eq!(posted.health, gone);
            assert!(matches!(posted.verdict, Verdict::Later(_)), "it is held, not lost");
        }
    }

    #[test]
    fn a_retry_after_is_obeyed_within_bounds() {
        for (asked, wait) in [("7", 7), ("100000", 100)] {
            let answer = Answer { retry_after: Some(asked.into()), ..answer(429, "") };
            let retry_after = Some(Duration::from_secs(wait));
            assert_eq!(judged(Channel::Slack, &answer).health, Health::Unwell { retry_after });
        }
    }

    #[test]
    fn of_an_answer_the_first_characters_are_kept_on_one_line() {
        let long = Answer {
            is_cut: true,
            ..answer(500, "\u{1b}[31ma\r\nb지붕 지붕 지붕 지붕 지붕")
        };
        let said = judged(Channel::Webhook, &long).answer.unwrap();
        assert_eq!(said, "[31ma  b지붕 지붕 지붕 지붕 …");
        let raw = Answer { body: vec![0xff, 0, 0xfe], ..answer(500, "") };
        assert_eq!(judged(Channel::Webhook, &raw).answer.unwrap(), "\u{fffd} \u{fffd}");
        assert_eq!(judged(Channel::Webhook, &answer(204, "")).answer, None);
    }
}
