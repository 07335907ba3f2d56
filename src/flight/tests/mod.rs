//! The edge over real connections, with a stand-in for the query layer that counts what it runs.

mod fuzz;
mod kernel;
mod login;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, Ticket};
use bytes::Bytes;
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::transport::listener;
use super::{Config, FlightServer};
use crate::auth::Authenticator;
use crate::auth::config::{Config as AuthConfig, Mode, User};
use crate::auth::tests::catalog::Catalog;
use crate::auth::tests::hash;
use crate::session::config::Config as SessionConfig;
use crate::session::{Defaults, Sessions};
use kernel::Counting;

/// What the catalog knows: a client of a realm and a token of its own.
const KNOWN: [&str; 2] = ["ana:geheim", "opaque-token"];

struct Edge {
    kernel: Arc<Counting>,
    sessions: Sessions,
    address: String,
}

fn users() -> AuthConfig {
    let users = ["ana", "bob"].map(|name| User { name: name.to_owned(), password_hash: hash("geheim") });
    AuthConfig { mode: Mode::Users, users: users.into(), ..AuthConfig::default() }
}

impl Edge {
    async fn open() -> Self {
        Self::start(AuthConfig::default(), Config::default()).await
    }

    async fn start(auth: AuthConfig, config: Config) -> Self {
        Self::knowing(auth, config, &KNOWN).await
    }

    async fn knowing(auth: AuthConfig, config: Config, known: &[&str]) -> Self {
        let auth = Authenticator::new(&auth, Catalog::knowing(known)).unwrap();
        let defaults = Defaults { catalog: "lake".into(), schema: "main".to_owned(), as_of: None };
        let sessions = Sessions::new(SessionConfig::default(), auth.clone(), Duration::from_secs(3600), defaults);
        let kernel = Arc::new(Counting::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (mut server, settings) = (config.server(), config.connections());
        let service = FlightServer::over(kernel.clone(), auth, sessions.clone(), config).into_service();
        let connections = listener::connections(listener, sessions.clone(), settings, None);
        tokio::spawn(async move { server.add_service(service).serve_with_incoming(connections).await });
        Self { kernel, sessions, address }
    }

    async fn client(&self) -> Client {
        let channel = Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap();
        Client { inner: FlightServiceClient::new(channel), header: None }
    }
}

/// A raw Flight client that sends one `authorization` header.
#[derive(Clone)]
struct Client {
    inner: FlightServiceClient<Channel>,
    header: Option<String>,
}

impl Client {
    fn with(&self, header: &str) -> Self {
        Self { header: Some(header.to_owned()), ..self.clone() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        request
    }

    /// The header of the answer and its payload.
    async fn handshake(&mut self) -> Result<(String, Bytes), Status> {
        let mut response = self.inner.handshake(self.request(futures::stream::empty())).await?;
        let header = response.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        let answer = response.get_mut().message().await?.unwrap();
        assert!(response.get_mut().message().await?.is_none());
        Ok((header, answer.payload))
    }

    async fn info(&mut self, command: &impl ProstMessageExt) -> Result<FlightInfo, Status> {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        Ok(self.inner.get_flight_info(self.request(descriptor)).await?.into_inner())
    }

    async fn query(&mut self, sql: &str) -> Result<FlightInfo, Status> {
        self.info(&CommandStatementQuery { query: sql.to_owned(), transaction_id: None }).await
    }

    async fn get(&mut self, ticket: Ticket) -> Result<Vec<FlightData>, Status> {
        let mut stream = self.inner.do_get(self.request(ticket)).await?.into_inner();
        let mut messages = Vec::new();
        while let Some(data) = stream.message().await? {
            messages.push(data);
        }
        Ok(messages)
    }

    async fn put(&mut self, messages: Vec<FlightData>) -> Result<Bytes, Status> {
        let mut stream = self.inner.do_put(self.request(futures::stream::iter(messages))).await?.into_inner();
        let result = stream.message().await?.unwrap();
        assert!(stream.message().await?.is_none());
        Ok(result.app_metadata)
    }

    async fn action(&mut self, name: &str, body: Vec<u8>) -> Result<Vec<Bytes>, Status> {
        let mut stream = self.inner.do_action(self.request(Action::new(name, body))).await?.into_inner();
        let mut bodies = Vec::new();
        while let Some(result) = stream.message().await? {
            bodies.push(result.body);
        }
        Ok(bodies)
    }

    async fn prepare(&mut self, sql: &str) -> Result<(ActionCreatePreparedStatementResult, Any), Status> {
        let request = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
        let bodies = self.action("CreatePreparedStatement", request.as_any().encode_to_vec()).await?;
        let any = Any::decode(bodies[0].clone()).unwrap();
        Ok((any.unpack().unwrap().unwrap(), any))
    }
}

fn ticket(info: &FlightInfo) -> Ticket {
    assert_eq!(info.endpoint.len(), 1);
    assert!(info.endpoint[0].location.is_empty());
    info.endpoint[0].ticket.clone().unwrap()
}

fn schema_of(info: &FlightInfo) -> Schema {
    info.clone().try_decode_schema().unwrap()
}
