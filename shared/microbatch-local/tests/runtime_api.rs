//! The Runtime API on the wire, spoken to by hand.

use std::time::Duration;

use microbatch_local::runtime_api::{InvocationResult, InvokeError, RuntimeApi};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(30);
const NEXT: &str = "/2018-06-01/runtime/invocation/next";

async fn request(api: &RuntimeApi, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(api.address()).await.expect("a connection");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("a head");
    stream.write_all(body).await.expect("a body");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    (answer[9..12].parse().expect("a status"), answer)
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

async fn next_id(api: &RuntimeApi) -> String {
    let (status, answer) = request(api, "GET", NEXT, "", b"").await;
    assert_eq!(status, 200);
    header(&answer, "lambda-runtime-aws-request-id").to_owned()
}

#[tokio::test]
async fn an_answer_is_taken_once_and_unchanged() {
    let api = RuntimeApi::start("arn:x").await.expect("an API");
    assert!(!api.asked());
    let function = async {
        let id = next_id(&api).await;
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        assert_eq!(request(&api, "POST", &path, "", b" not { json ").await.0, 202);
        assert_eq!(request(&api, "POST", &path, "", b"again").await.0, 400);
    };
    let (result, ()) = tokio::join!(api.invoke("{}".into(), LONG), function);
    assert_eq!(result, Ok(InvocationResult::Response(" not { json ".into())));
    assert!(api.asked());
}

#[tokio::test]
async fn several_are_in_flight_at_once_and_answered_in_any_order() {
    let api = RuntimeApi::start("arn:x").await.expect("an API");
    let function = async {
        let ids = tokio::join!(next_id(&api), next_id(&api));
        for (id, body) in [(ids.1, "second"), (ids.0, "first")] {
            request(&api, "POST", &format!("/2018-06-01/runtime/invocation/{id}/response"), "", body.as_bytes()).await;
        }
    };
    let (one, other, ()) = tokio::join!(api.invoke("1".into(), LONG), api.invoke("2".into(), LONG), function);
    let mut bodies = [one, other].map(|result| match result {
        Ok(InvocationResult::Response(body)) => body,
        other => panic!("{other:?}"),
    });
    bodies.sort();
    assert_eq!(bodies, ["first", "second"]);
}

#[tokio::test]
async fn an_error_without_a_body_takes_its_type_from_the_header() {
    let api = RuntimeApi::start("arn:x").await.expect("an API");
    let function = async {
        let id = next_id(&api).await;
        let path = format!("/2018-06-01/runtime/invocation/{id}/error");
        let headers = "lambda-runtime-function-error-type: Runtime.Custom\r\n";
        assert_eq!(request(&api, "POST", &path, headers, b"").await.0, 202);
    };
    let (result, ()) = tokio::join!(api.invoke("{}".into(), LONG), function);
    let Ok(InvocationResult::FunctionError(error)) = result else { panic!("{result:?}") };
    assert_eq!((error.error_type.as_str(), error.message.as_str()), ("Runtime.Custom", ""));
}

#[tokio::test]
async fn a_late_answer_is_refused() {
    let api = RuntimeApi::start("arn:x").await.expect("an API");
    let timeout = Duration::from_millis(50);
    let (result, id) = tokio::join!(api.invoke("{}".into(), timeout), next_id(&api));
    assert_eq!(result, Err(InvokeError::TimedOut { timeout_ms: 50 }));
    let path = format!("/2018-06-01/runtime/invocation/{id}/response");
    assert_eq!(request(&api, "POST", &path, "", b"{}").await.0, 400);
}

#[tokio::test]
async fn an_init_error_is_kept() {
    let api = RuntimeApi::start("arn:x").await.expect("an API");
    assert_eq!(api.init_error(), None);
    let body = br#"{"errorType":"T","errorMessage":"M","stackTrace":[]}"#;
    let (error, (status, _)) =
        tokio::join!(api.init_failed(), request(&api, "POST", "/2018-06-01/runtime/init/error", "", body));
    assert_eq!(status, 202);
    assert_eq!((error.error_type.as_str(), error.message.as_str()), ("T", "M"));
    assert_eq!(api.init_error(), Some(error));
}

#[tokio::test]
async fn unknown_paths_and_ids_are_refused() {
    let api = RuntimeApi::start("arn:x").await.expect("an API");
    assert_eq!(request(&api, "GET", "/2018-06-01/runtime/restore/next", "", b"").await.0, 404);
    assert_eq!(request(&api, "POST", "/2018-06-01/runtime/invocation/x/response", "", b"{}").await.0, 400);
    assert_eq!(request(&api, "POST", NEXT, "", b"").await.0, 405);
}
