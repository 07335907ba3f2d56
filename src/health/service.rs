//! Owns the standard health service of gRPC, for everybody who reaches the port. Refuses to ask anything: it tells what is known, so a
//! call costs nothing but itself, and calls that last are counted.

use std::pin::Pin;

use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Extensions, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::watches::{NoPlace, Peer};
use super::{Health, Standing};

/// The service whose health is that catalogs can be worked with.
pub const READINESS: &str = "readiness";

/// What load balancers ask for that know nothing but what they balance.
const FLIGHT: &str = "arrow.flight.protocol.FlightService";

/// Tells where requests come from by their extensions.
pub type PeerOf = fn(&Extensions) -> Option<Peer>;

/// A request is a service's name.
const MAX_REQUEST_BYTES: usize = 4096;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The process: whether it takes calls.
    Life,
    Readiness,
}

impl Asked {
    fn of(service: &str) -> Option<Self> {
        match service {
            "" => Some(Self::Life),
            READINESS | FLIGHT => Some(Self::Readiness),
            _ => None,
        }
    }

    fn status(self, standing: Standing) -> ServingStatus {
        match (self, standing) {
            (_, Standing::Draining) | (Self::Readiness, Standing::NotReady) => ServingStatus::NotServing,
            (Self::Life, _) | (Self::Readiness, Standing::Ready) => ServingStatus::Serving,
        }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl Health {
    /// The service as tonic serves it.
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes::new(HealthServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
    }

    /// The status now, and each one that differs from the one before.
    fn changes(&self, asked: Asked) -> impl Stream<Item = ServingStatus> + Send + use<> {
        let changes = (self.0.standing.subscribe(), None);
        stream::unfold(changes, move |(mut standing, told): (watch::Receiver<Standing>, Option<ServingStatus>)| async move {
            loop {
                let status = asked.status(*standing.borrow_and_update());
                if told != Some(status) {
                    return Some((status, (standing, Some(status))));
                }
                standing.changed().await.ok()?;
            }
        })
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let asked = Asked::of(&service).ok_or_else(|| {
            Status::not_found(format!("there is no service of this name; there are \"\", {READINESS} and {FLIGHT}"))
        })?;
        Ok(Response::new(answer(asked.status(*self.0.standing.borrow()))))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = (self.0.peer_of)(request.extensions());
        let asked = Asked::of(&request.into_inner().service);
        let refused = |none: NoPlace| Status::resource_exhausted(format!("{none}; use Check"));
        let place = self.0.watches.take(peer, asked.is_some()).map_err(refused)?;
        let statuses = match asked {
            Some(asked) => self.changes(asked).boxed(),
            // The protocol wants such a call to stay open, in case the service comes. It takes nothing from those who ask for one.
            None => stream::once(async { ServingStatus::ServiceUnknown }).chain(stream::pending()).boxed(),
        };
        let told = statuses.map(move |status| {
            // Taken for as long as the call lasts.
            let _ = &place;
            Ok(answer(status))
        });
        Ok(Response::new(told.take_until(self.0.stop.clone().cancelled_owned()).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::health_server::Health as _;
    use super::*;
    use crate::health::Config;

    fn health(max_watches: usize) -> (Health, CancellationToken) {
        let stop = CancellationToken::new();
        let config = Config { max_watches, ..Config::default() };
        (Health::new(config, std::time::Duration::ZERO, |extensions| extensions.get().copied(), stop.clone()), stop)
    }

    fn asking(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    async fn status(health: &Health, service: &str) -> ServingStatus {
        health.check(asking(service)).await.unwrap().into_inner().status()
    }

    #[tokio::test]
    async fn life_and_readiness_are_two_things_until_a_drain() {
        use ServingStatus::{NotServing, Serving};
        let (health, _stop) = health(1);
        for (standing, life, ready) in [
            (Standing::NotReady, Serving, NotServing),
            (Standing::Ready, Serving, Serving),
            (Standing::Draining, NotServing, NotServing),
        ] {
            health.0.standing.send_replace(standing);
            assert_eq!(status(&health, "").await, life, "{standing:?}");
            assert_eq!((status(&health, READINESS).await, status(&health, FLIGHT).await), (ready, ready), "{standing:?}");
        }
        assert_eq!(health.check(asking("nope")).await.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn a_watch_tells_changes_only_and_ends_with_the_server() {
        let (health, stop) = health(10);
        let mut watch = health.watch(asking(READINESS)).await.unwrap().into_inner();
        let mut unknown = health.watch(asking("nope")).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert_eq!(unknown.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
        health.stand(Standing::NotReady);
        health.stand(Standing::Ready);
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        health.drain();
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        stop.cancel();
        assert!(watch.next().await.is_none() && unknown.next().await.is_none());
    }

    #[tokio::test]
    async fn watches_are_counted_and_their_places_come_back() {
        let (health, _stop) = health(1);
        let watch = health.watch(asking("")).await.unwrap();
        let error = health.watch(asking("")).await.err().unwrap();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.message().contains("health.max_watches"), "{error}");
        drop(watch);
        assert!(health.watch(asking("")).await.is_ok());
    }

    #[tokio::test]
    async fn what_nobody_serves_and_one_connection_leave_places_to_others() {
        let (health, _stop) = health(6);
        let on = |connection: u64, service: &str| {
            let mut request = asking(service);
            request.extensions_mut().insert(Peer { connection, address: None });
            health.watch(request)
        };
        let mut held = Vec::new();
        for connection in 0..6 {
            held.push(on(connection, "nope").await.unwrap());
        }
        for _ in 0..3 {
            held.push(on(0, READINESS).await.unwrap());
        }
        let error = on(0, READINESS).await.err().unwrap();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.message().contains("4 calls of Watch on this connection"), "{error}");
        assert!(on(0, "nope").await.is_err());
        for _ in 0..3 {
            held.push(on(1, READINESS).await.unwrap());
        }
        assert!(on(2, READINESS).await.err().unwrap().message().contains("health.max_watches"));
        held.clear();
        assert!(on(0, READINESS).await.is_ok());
    }
}
