//! A receiver of OpenTelemetry's protocol on the loopback, as a collector beside a function is one.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Takes spans until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Bytes>>>,
    task: JoinHandle<()>,
}

impl OtlpReceiver {
    /// One that answers, or one that takes each request and never does.
    pub async fn start(answers: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback has a port");
        let address = listener.local_addr().expect("it is bound");
        let requests: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let kept = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept), answers));
            }
        });
        Self { address, requests, task }
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bodies that came, as they came.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All spans that came, and the resources' attributes.
    pub fn spans(&self) -> (Vec<Span>, Vec<KeyValue>) {
        let (mut spans, mut resources) = (Vec::new(), Vec::new());
        for body in self.bodies() {
            let request = ExportTraceServiceRequest::decode(body).expect("a request of the protocol");
            for of_resource in request.resource_spans {
                resources.extend(of_resource.resource.into_iter().flat_map(|resource| resource.attributes));
                spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        (spans, resources)
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<Bytes>>>, answers: bool) {
    let service = service_fn(move |request: Request<Incoming>| {
        let kept = Arc::clone(&kept);
        async move {
            assert_eq!(request.uri().path(), "/v1/traces");
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(body);
            if !answers {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    // A function that ends closes its connection.
    let _closed = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An attribute as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        other => format!("{other:?}"),
    })
}
