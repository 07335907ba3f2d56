//! Owns the way of a result's messages onto HTTP/2 without a copy. The worker has made each of them a whole gRPC message, so DoGet takes
//! them as the body of its response; tonic's own service would decode each into a `FlightData` and copy that into a buffer again.
//! Refuses to know what a ticket is: all other calls, and the answer to this one, are those of the service around it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow_flight::Ticket;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use prost::Message;
use tonic::codec::Codec;
use tonic::codegen::Service;
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::server::NamedService;
use tonic::{Code, Extensions, Status, Streaming};
use tonic_prost::ProstCodec;

/// The call that is answered here.
const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";

/// gRPC's prefix: not compressed, then the length of the message.
const PREFIX_LEN: usize = 5;

/// Whole gRPC messages, each with its prefix.
pub type Messages = BoxStream<'static, Result<Bytes, Status>>;

/// A message as gRPC sends it: a prefix of five bytes, then protobuf.
///
/// # Errors
/// When it is 4 GB or larger, which gRPC has no prefix for.
pub fn whole_message(message: &impl Message) -> Result<Bytes, Status> {
    let len = message.encoded_len();
    let prefix = u32::try_from(len).map_err(|_| Status::out_of_range("a message of 4 GB or more"))?;
    let mut bytes = BytesMut::with_capacity(PREFIX_LEN + len);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message.encode_raw(&mut bytes);
    Ok(bytes.freeze())
}

/// What answers DoGet.
pub trait DoGet: Clone + Send + Sync + 'static {
    /// The messages that answer a ticket.
    fn do_get(
        self,
        metadata: MetadataMap,
        extensions: Extensions,
        ticket: Ticket,
    ) -> impl Future<Output = Result<Messages, Status>> + Send;
}

/// A Flight service whose DoGet is answered by `results`, and everything else by `inner`.
#[derive(Clone, Debug)]
pub struct PassThrough<S, D> {
    /// tonic's service of the other calls.
    pub inner: S,
    /// Answers DoGet.
    pub results: D,
    /// The largest ticket in bytes.
    pub max_ticket_bytes: usize,
}

impl<S: NamedService, D> NamedService for PassThrough<S, D> {
    const NAME: &'static str = S::NAME;
}

type Answer = Response<tonic::body::Body>;

impl<S, D> Service<Request<tonic::body::Body>> for PassThrough<S, D>
where
    S: Service<Request<tonic::body::Body>, Response = Answer, Error = Infallible>,
    S::Future: Send + 'static,
    D: DoGet,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path() != DO_GET {
            return Box::pin(self.inner.call(request));
        }
        let answer = answer(self.results.clone(), request, self.max_ticket_bytes);
        Box::pin(async { Ok(answer.await.unwrap_or_else(Status::into_http)) })
    }
}

async fn answer(results: impl DoGet, request: Request<tonic::body::Body>, max_ticket_bytes: usize) -> Result<Answer, Status> {
    let (head, body) = request.into_parts();
    let decoder = ProstCodec::<(), Ticket>::default().decoder();
    let mut tickets = Streaming::new_request(decoder, body, None, Some(max_ticket_bytes));
    let ticket = tickets.message().await?.ok_or_else(|| Status::invalid_argument("DoGet without a ticket"))?;
    let messages = results.do_get(MetadataMap::from_headers(head.headers), head.extensions, ticket).await?;
    let mut response = Response::new(tonic::body::Body::new(MessageBody(Some(messages))));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    Ok(response)
}

/// Messages, then how the call ended as trailers. The messages are dropped as soon as they end, and with them what they hold.
struct MessageBody(Option<Messages>);

impl Body for MessageBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(messages) = self.0.as_mut() else { return Poll::Ready(None) };
        let end = match ready!(messages.as_mut().poll_next(cx)) {
            Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Some(Err(status)) => trailers(&status),
            None => trailers(&Status::new(Code::Ok, "")),
        };
        self.0 = None;
        Poll::Ready(Some(end.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    if status.code() == Code::Ok {
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        return Ok(trailers);
    }
    status.add_header(&mut trailers)?;
    Ok(trailers)
}
