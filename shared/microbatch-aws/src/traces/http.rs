//! The HTTP client of the AWS SDK under OpenTelemetry's exporter: one client and one TLS stack in the binary.

use async_trait::async_trait;
use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    client::http::{HttpConnector, SharedHttpConnector},
    http::Request as SdkRequest,
};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

/// The SDK's connector, which keeps connections.
#[derive(Debug)]
pub(super) struct SdkHttpClient(SharedHttpConnector);

impl Default for SdkHttpClient {
    fn default() -> Self {
        let connector = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build();
        Self(SharedHttpConnector::new(connector))
    }
}

#[async_trait]
impl HttpClient for SdkHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = SdkRequest::try_from(request.map(SdkBody::from))?;
        let response = self.0.call(request).await?;
        let mut answer = Response::builder().status(response.status().as_u16());
        for (name, value) in response.headers() {
            answer = answer.header(name, value);
        }
        let body = ByteStream::new(response.into_body()).collect().await?.into_bytes();
        Ok(answer.body(body)?)
    }
}
