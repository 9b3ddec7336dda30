//! SQL over the lake: read-only, within limits, as JSON, CSV or Arrow.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use base::access::Action;
use edge::{Caller, Json, Operation, Routes, State};
use lake::Format;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Doors;

/// Asking by SQL.
const QUERY: Action = Action("lake.query");

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// One statement that only reads, such as `SELECT device, max(value) FROM readings GROUP BY device`.
    sql: String,
}

#[derive(Serialize, JsonSchema)]
struct SqlAnswer {
    columns: Vec<SqlColumn>,
    /// One array for each row, in the order of the columns. Times are RFC 3339 in UTC.
    rows: Vec<Vec<Value>>,
    /// Whether rows are missing because a limit was reached.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
struct SqlColumn {
    name: String,
    /// `text`, `timestamp`, `double`, `bigint`, `boolean`, …
    r#type: String,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone()).add(
        Operation::post("/v1/sql")
            .id("sql")
            .summary("Asks the lake by SQL; rows that arrived a moment ago are in the answer.")
            .tag("sql")
            .action(QUERY)
            .resource("lake")
            .kinds(&[ErrorKind::Invalid, ErrorKind::TooMany])
            .returns::<SqlAnswer>(200)
            .media(Format::Csv.content_type())
            .media(Format::Arrow.content_type()),
        sql,
    )
}

async fn sql(
    State(doors): State<Doors>,
    caller: Caller,
    headers: HeaderMap,
    Json(question): Json<Question>,
) -> edge::Result<Response> {
    let format = format_of(headers.get(header::ACCEPT))?;
    let answer = doors.lake.query_encoded(caller.organisation(), &question.sql, format).await;
    let answer = answer.map_err(|error| edge::Error::of(error.kind(), error))?;
    let mut response = (StatusCode::OK, answer.bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // CSV and Arrow have no place of their own to say it.
    let truncated = if answer.truncated { "true" } else { "false" };
    headers.insert("madang-truncated", HeaderValue::from_static(truncated));
    Ok(response)
}

/// The first form in `Accept` that we have; JSON when anything will do.
fn format_of(accept: Option<&HeaderValue>) -> edge::Result<Format> {
    let Some(accept) = accept else { return Ok(Format::Json) };
    let accept = accept.to_str().map_err(|_| edge::Error::unreadable("Accept is not ASCII"))?;
    let known = accept.split(',').find_map(|range| {
        match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" => Some(Format::Json),
            "text/csv" | "text/*" => Some(Format::Csv),
            "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
            _ => None,
        }
    });
    known.ok_or_else(|| {
        edge::Error::unreadable(
            "answers are application/json, text/csv or application/vnd.apache.arrow.stream",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_first_form_asked_for_that_there_is() {
        let check = |accept: &'static str, wanted: Option<Format>| {
            let format = format_of(Some(&HeaderValue::from_static(accept)));
            assert_eq!(format.ok(), wanted, "{accept}");
        };
        check("*/*", Some(Format::Json));
        check("text/csv", Some(Format::Csv));
        check("text/html, text/csv;q=0.9, */*;q=0.1", Some(Format::Csv));
        check("application/vnd.apache.arrow.stream", Some(Format::Arrow));
        check("image/png", None);
        assert_eq!(format_of(None).ok(), Some(Format::Json));
    }
}
