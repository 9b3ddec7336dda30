//! The OpenAPI document is kept: an independent program asks all that it allows, and what it does not.

use std::fs;
use std::process::Command;

use testkit::Mailbox;

use crate::launch;

/// Requests of each kind and operation.
const EXAMPLES: &str = "4";
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Streams have no end that it could wait for. RFC 7644 wants a 501 (section 3.12) of what a directory does not look through.
const LEFT_OUT: &str = r"events$|^/scim/v2/\.search$";

#[test]
fn no_answer_is_undocumented_and_none_is_a_failure_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox::open().unwrap();
    let stack = launch(&folder).mail_to(mailbox.port).start().unwrap();
    let mut document = stack.stranger().get("/openapi.json").unwrap().ok().unwrap();
    // The answer of an operation to everything else would document all that there is.
    for item in document["paths"].as_object_mut().unwrap().values_mut() {
        for operation in item.as_object_mut().unwrap().values_mut() {
            let answers = operation["responses"].as_object_mut().map(|it| it.remove("default"));
            assert!(answers.flatten().is_some(), "an operation says what else it may answer");
        }
    }
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("document.json"), document.to_string()).unwrap();
    let tool = testkit::cache_folder().unwrap().join("schemathesis/tools/bin/schemathesis");
    let output = Command::new(tool)
        .current_dir(place.path())
        .args(["run", "document.json", "--url", stack.stranger().origin()])
        .args(["--header", &format!("Authorization: Bearer {}", stack.token())])
        .args(["--checks", CHECKS, "--phases", "fuzzing", "--max-examples", EXAMPLES])
        .args(["--generation-deterministic", "--continue-on-failure", "--no-shrink"])
        .args(["--exclude-path-regex", LEFT_OUT, "--request-timeout", "60"])
        // How long it takes to make up a request is this machine's affair.
        .args(["--suppress-health-check", "all", "--warnings", "off", "--no-color"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // As many as the document has, but for those that are left out.
    let tested = text.lines().find_map(|line| line.trim().strip_prefix("Tested: ")).unwrap();
    assert!(tested.trim().parse::<usize>().unwrap() >= 260, "{text}");
}
