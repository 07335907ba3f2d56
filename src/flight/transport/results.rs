//! Owns the way of a result's messages onto HTTP/2 without a copy. The worker has made each of them a whole gRPC message, so DoGet takes
//! them as the body of its response; tonic's own service would decode each into a `FlightData` and copy that into a buffer again.
//! It also has the caller known before anything of a request's body is kept: a message may have megabytes, and strangers send them too.
//! Refuses to know what a ticket is, and who may call: all other calls, and the answer to this one, are those of the service around it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_flight::Ticket;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use prost::Message;
use tonic::codec::Codec;
use tonic::codegen::Service;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// The call that is answered here.
const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";

/// The call whose messages are data, and large.
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";

/// The call by which strangers become known.
const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";

/// How long a refused client may take to end its side. Resetting its stream before could make it drop the answer that says why.
const ENDED_WITHIN: Duration = Duration::from_millis(250);

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

/// What knows callers, and answers DoGet.
pub trait Calls: Clone + Send + Sync + 'static {
    /// A call of a known caller.
    type Call: Clone + Send + Sync + 'static;

    /// Who calls, from the head of a request alone.
    fn caller(&self, head: &Parts) -> impl Future<Output = Result<Self::Call, Status>> + Send;

    /// The messages that answer a ticket.
    fn do_get(self, call: Self::Call, ticket: Ticket) -> impl Future<Output = Result<Messages, Status>> + Send;
}

/// A Flight service whose DoGet is answered by `calls`, and everything else by `inner`, which finds the [`Calls::Call`] of each request but
/// a Handshake among its extensions.
#[derive(Clone, Debug)]
pub struct PassThrough<S, C> {
    /// tonic's service of the other calls; always ready.
    pub inner: S,
    /// The same, for larger messages: those of DoPut.
    pub uploads: S,
    /// Knows callers, and answers DoGet.
    pub calls: C,
    /// The largest ticket in bytes.
    pub max_ticket_bytes: usize,
}

impl<S: NamedService, C> NamedService for PassThrough<S, C> {
    const NAME: &'static str = S::NAME;
}

type Answer = Response<tonic::body::Body>;

impl<S, C> Service<Request<tonic::body::Body>> for PassThrough<S, C>
where
    S: Service<Request<tonic::body::Body>, Response = Answer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    C: Calls,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        match request.uri().path() {
            HANDSHAKE => Box::pin(self.inner.call(request)),
            DO_GET => Box::pin(rows(self.calls.clone(), request, self.max_ticket_bytes)),
            DO_PUT => Box::pin(known(self.calls.clone(), self.uploads.clone(), request)),
            _ => Box::pin(known(self.calls.clone(), self.inner.clone(), request)),
        }
    }
}

/// Has a call answered once its caller is known.
async fn known<S>(calls: impl Calls, mut inner: S, request: Request<tonic::body::Body>) -> Result<Answer, Infallible>
where
    S: Service<Request<tonic::body::Body>, Response = Answer, Error = Infallible>,
{
    let (mut head, body) = request.into_parts();
    match calls.caller(&head).await {
        Ok(call) => {
            head.extensions.insert(call);
            inner.call(Request::from_parts(head, body)).await
        }
        Err(status) => Ok(refused(status, body).await),
    }
}

async fn rows(calls: impl Calls, request: Request<tonic::body::Body>, max_ticket_bytes: usize) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let call = match calls.caller(&head).await {
        Ok(call) => call,
        Err(status) => return Ok(refused(status, body).await),
    };
    Ok(answer(calls, call, body, max_ticket_bytes).await.unwrap_or_else(Status::into_http))
}

/// The refusal, when the client has ended its side. What it still sends is thrown away piece by piece.
async fn refused(status: Status, mut body: tonic::body::Body) -> Answer {
    let ended = async { while matches!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await, Some(Ok(_))) {} };
    // Either way it is refused.
    let _ = tokio::time::timeout(ENDED_WITHIN, ended).await;
    status.into_http()
}

async fn answer<C: Calls>(calls: C, call: C::Call, body: tonic::body::Body, max_ticket_bytes: usize) -> Result<Answer, Status> {
    let decoder = ProstCodec::<(), Ticket>::default().decoder();
    let mut tickets = Streaming::new_request(decoder, body, None, Some(max_ticket_bytes));
    let ticket = tickets.message().await?.ok_or_else(|| Status::invalid_argument("DoGet without a ticket"))?;
    let messages = calls.do_get(call, ticket).await?;
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
