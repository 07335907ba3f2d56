//! Owns the end of a client certificate while its connection is open: from then on the connection's calls are refused, and those under
//! way may end. Refuses to judge callers by anything else.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::future::Either;
use http::{Request, Response};
use humantime_serde::re::humantime::format_rfc3339_seconds;
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::listener::ConnectionInfo;

/// A service for callers whose certificate, if they have shown one, is still valid.
#[derive(Clone, Debug)]
pub struct UnexpiredCallers<S>(pub S);

impl<S: NamedService> NamedService for UnexpiredCallers<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<tonic::body::Body>, Infallible>;

impl<S> Service<Request<tonic::body::Body>> for UnexpiredCallers<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        match expired(request.extensions()) {
            Some(status) => Either::Left(ready(Ok(status.into_http()))),
            None => Either::Right(self.0.call(request)),
        }
    }
}

fn expired(extensions: &http::Extensions) -> Option<Status> {
    let certificate = extensions.get::<ConnectionInfo>()?.certificate.as_ref()?;
    certificate.has_expired(SystemTime::now()).then(|| {
        let since = format_rfc3339_seconds(certificate.not_after);
        Status::unauthenticated(format!(
            "the client certificate of this connection expired at {since}; connect again with one that is valid"
        ))
    })
}
