//! Owns plain Flight servers to hold the gateway against, made of the arrow-flight crate as it comes: tonic's service and, where there
//! are batches to encode, its encoder. Refuses everything but DoGet; a ticket is a statement.

use std::io::Read;
use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    PutResult, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::engine::Engine;

/// Batches that wait between DuckDB's thread and the network.
const QUEUE: usize = 4;

/// Where the rows come from.
#[derive(Clone)]
pub enum Source {
    Engine(Arc<Engine>),
    Memory(Arc<[FlightData]>),
}

/// Serves on a free port, which it says, until standard input ends.
pub async fn serve(source: Source) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("LISTENING {}", listener.local_addr().expect("an address").port());
    let connections =
        TcpListenerStream::new(listener).inspect_ok(|connection| connection.set_nodelay(true).expect("TCP_NODELAY"));
    let service = FlightServiceServer::new(Plain(source));
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let served = Server::builder().add_service(service).serve_with_incoming_shutdown(connections, async {
        end.await.expect("a thread").expect("standard input");
    });
    served.await.expect("a server");
}

struct Plain(Source);

type Answer<T> = BoxStream<'static, Result<T, Status>>;

fn encoded(engine: Arc<Engine>, sql: String) -> Answer<FlightData> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        engine.stream(&sql, |_| (), |batch| sender.blocking_send(Ok::<_, FlightError>(batch)).is_ok());
    });
    FlightDataEncoderBuilder::new().build(ReceiverStream::new(receiver)).map_err(Status::from).boxed()
}

#[tonic::async_trait]
impl FlightService for Plain {
    type HandshakeStream = Answer<HandshakeResponse>;
    type ListFlightsStream = Answer<FlightInfo>;
    type DoGetStream = Answer<FlightData>;
    type DoPutStream = Answer<PutResult>;
    type DoExchangeStream = Answer<FlightData>;
    type DoActionStream = Answer<arrow_flight::Result>;
    type ListActionsStream = Answer<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let sql = String::from_utf8(request.into_inner().ticket.to_vec()).expect("a statement");
        Ok(Response::new(match &self.0 {
            Source::Engine(engine) => encoded(Arc::clone(engine), sql),
            Source::Memory(messages) => {
                let messages = Arc::clone(messages);
                stream::iter(0..messages.len()).map(move |number| Ok(messages[number].clone())).boxed()
            }
        }))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(only_do_get())
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(only_do_get())
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Err(only_do_get())
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(only_do_get())
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(only_do_get())
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(only_do_get())
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(only_do_get())
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(only_do_get())
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(only_do_get())
    }
}

fn only_do_get() -> Status {
    Status::unimplemented("only DoGet is served here")
}
