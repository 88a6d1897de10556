//! A POST to a local server.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Sends `body` and gives the status and the body of the answer.
pub async fn post(address: SocketAddr, path: &str, body: impl Into<Bytes>) -> Result<(u16, Bytes), String> {
    let failed = |error: &dyn std::error::Error| format!("POST {path} to {address}: {error}");
    let uri: Uri = format!("http://{address}{path}").parse().map_err(|error| failed(&error))?;
    let request = Request::post(uri).body(Full::new(body.into())).map_err(|error| failed(&error))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.map_err(|error| failed(&error))?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| failed(&error))?;
    Ok((status, body.to_bytes()))
}
