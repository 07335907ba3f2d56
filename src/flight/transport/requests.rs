//! Owns request bodies: they tell a broken one from a whole one. Refuses to know what a request says.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// A request body that ends only when the client ended it. hyper takes a reset with NO_ERROR or CANCEL for the end of the body, and
/// tonic's decoder takes every error with the code Cancelled for the end of the client's messages: half an upload would pass for whole.
struct WholeBody(tonic::body::Body);

impl Body for WholeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let broke_off = || Poll::Ready(Some(Err(Status::aborted("the client broke off"))));
        match std::task::ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            Some(Err(_)) => broke_off(),
            None if !self.0.is_end_stream() => broke_off(),
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A service that never takes half a request for a whole one: reading a request that the client broke off is an error.
#[derive(Clone, Debug)]
pub struct WholeRequests<S>(pub S);

impl<S: NamedService> NamedService for WholeRequests<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<tonic::body::Body>>> Service<http::Request<tonic::body::Body>> for WholeRequests<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> S::Future {
        self.0.call(request.map(|body| tonic::body::Body::new(WholeBody(body))))
    }
}
