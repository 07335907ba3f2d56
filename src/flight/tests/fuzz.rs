//! Tickets, prepared handles and session tokens under random changes, over real connections: what a client carries for the gateway opens
//! for the one whose it is and as it was given out, and for nobody else, in no other form, and never with a broken call.
//!
//! `POLYNYA_FUZZ_SECONDS` and `POLYNYA_FUZZ_SEED` as in the guard's fuzz target.

use std::time::Instant;

use arrow_flight::sql::{CommandPreparedStatementQuery, TicketStatementQuery};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tonic::Code;

use super::*;

/// So many are tried at least if nobody says for how long.
const LEAST: u64 = 2_000;

/// From so many on it counts how many were genuine: by then it is no accident.
const MANY: u64 = 1_000;

/// What one user was given.
struct Belongings {
    client: Client,
    user: &'static str,
    /// The text of each statement with the ticket for it.
    tickets: Vec<(String, Ticket)>,
    handles: Vec<Bytes>,
}

async fn belongings(edge: &super::Edge, user: &'static str) -> Belongings {
    let client = edge.client().await;
    let login = client.with(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:geheim"))));
    let (token, _) = login.clone().handshake().await.unwrap();
    let mut client = client.with(&token);
    let (mut tickets, mut handles) = (Vec::new(), Vec::new());
    for text in ["select 1", "select 'a longer text, with which a ticket is longer than with a short one'", ""] {
        let sql = format!("select '{user}' {text}");
        tickets.push((sql.clone(), ticket(&client.query(&sql).await.unwrap())));
        handles.push(client.prepare(&sql).await.unwrap().0.prepared_statement_handle);
    }
    Belongings { client, user, tickets, handles }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Bytes that were changed a little, cut, joined with others, or made up.
fn changed(random: &mut SmallRng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let at = if bytes.is_empty() { 0 } else { random.random_range(0..bytes.len()) };
    match random.random_range(0..10) {
        0..3 if !bytes.is_empty() => changed[at] ^= 1 << random.random_range(0..8),
        3 => changed.truncate(at),
        4 => drop(changed.drain(..at)),
        5 => changed.extend((0..random.random_range(1..40)).map(|_| random.random::<u8>())),
        6 => {
            changed.truncate(at);
            changed.extend(other.iter().skip(random.random_range(0..=other.len())));
        }
        7 if !bytes.is_empty() => {
            let end = (at + 16).min(bytes.len());
            let from = &other[at.min(other.len())..end.min(other.len())];
            changed.splice(at..end, from.iter().copied());
        }
        8 => changed = (0..random.random_range(0..200)).map(|_| random.random()).collect(),
        _ => changed = [bytes, other].concat(),
    }
    changed
}

/// A call that fails must fail as one that a client got wrong.
fn refused(status: &Status) -> Result<(), String> {
    match status.code() {
        Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::Unimplemented => Ok(()),
        _ => Err(format!("{status:?}")),
    }
}

/// The sealed handle in a ticket, as protobuf has it.
fn handle_in(ticket: &[u8]) -> Option<Bytes> {
    let any = Any::decode(ticket).ok()?;
    TicketStatementQuery::decode(any.value).ok().map(|query| query.statement_handle)
}

struct Fuzz {
    edge: super::Edge,
    random: SmallRng,
}

impl Fuzz {
    /// Hands in a ticket. Only a handle that the caller was given may run, and it runs what it was given for.
    async fn ticket(&mut self, whose: &mut Belongings, bytes: Vec<u8>) -> Result<bool, String> {
        let bytes = Bytes::from(bytes);
        let given = handle_in(&bytes);
        let genuine = whose.tickets.iter().find(|(_, ticket)| given.is_some() && handle_in(&ticket.ticket) == given);
        let expected = genuine.map(|(sql, _)| sql.clone());
        self.edge.kernel.ran.lock().unwrap().clear();
        let answer = whose.client.get(Ticket { ticket: bytes.clone() }).await;
        let ran = self.edge.kernel.ran.lock().unwrap().clone();
        match (answer, ran.as_slice()) {
            (Err(status), []) => refused(&status).map(|()| false).map_err(|status| format!("{status} by {bytes:02x?}")),
            (Ok(_), [one]) if expected.as_deref() == Some(&one.sql) && one.principal == whose.user => Ok(true),
            // Metadata needs no statement and no sealed ticket.
            (Ok(_), []) if given.is_none_or(|handle| !handle.starts_with(b"PLY1")) => Ok(false),
            (answer, ran) => Err(format!("{:?}, ran {ran:?}, expected {expected:?}, by {bytes:02x?}", answer.err())),
        }
    }

    /// Asks for a prepared statement. Only a handle of the caller's own session is found.
    async fn prepared(&mut self, whose: &mut Belongings, handle: Vec<u8>) -> Result<bool, String> {
        let genuine = whose.handles.iter().any(|given| *given == handle);
        let shown = format!("{handle:02x?}");
        match whose.client.info(&CommandPreparedStatementQuery { prepared_statement_handle: handle.into() }).await {
            Err(status) if !genuine => refused(&status).map(|()| false),
            Ok(_) if genuine => Ok(true),
            answer => Err(format!("genuine: {genuine}, {answer:?} by {shown}")),
        }
    }

    /// Comes with a session token. Only one that was given out opens anything.
    async fn token(&mut self, all: &[Belongings], text: Vec<u8>) -> Result<bool, String> {
        let text = String::from_utf8_lossy(&text).replace(|c: char| !c.is_ascii() || c.is_control(), "x");
        let sessions = self.edge.sessions.len();
        let bearer = |text: &str| text.trim().split_once(' ').map(|(_, token)| token.trim().to_owned());
        let genuine = all.iter().any(|one| bearer(one.client.header.as_deref().unwrap()) == bearer(&text));
        let answer = all[0].client.with(&text).query("select 1").await;
        if self.edge.sessions.len() != sessions {
            return Err(format!("a session was opened, {answer:?} by {text:?}"));
        }
        match answer {
            Err(status) => refused(&status).map(|()| false),
            Ok(_) if genuine && text.trim().to_lowercase().starts_with("bearer") => Ok(true),
            Ok(_) => Err(format!("let in by {text:?}")),
        }
    }

    async fn one(&mut self, all: &mut [Belongings], foreign: &Belongings) -> Result<bool, String> {
        let (who, other) = (self.random.random_range(0..all.len()), self.random.random_range(0..all.len()));
        let mut pick = |from: &Belongings| from.tickets.choose(&mut self.random).unwrap().1.ticket.to_vec();
        let (own, others, abroad) = (pick(&all[who]), pick(&all[other]), pick(foreign));
        match self.random.random_range(0..10) {
            // As it is: the caller's own, another's, another gateway's.
            0 => {
                let bytes = [&own, &others, &abroad].choose(&mut self.random).unwrap().to_vec();
                self.ticket(&mut all[who], bytes).await
            }
            // The ticket around the handle.
            1 | 2 => {
                let bytes = changed(&mut self.random, &own, &others);
                self.ticket(&mut all[who], bytes).await
            }
            // The sealed handle in a ticket that is in order.
            3..7 => {
                let (own, others) = (handle_in(&own).unwrap(), handle_in(&others).unwrap());
                let handle = changed(&mut self.random, &own, &others);
                let ticket = TicketStatementQuery { statement_handle: handle.into() }.as_any().encode_to_vec();
                self.ticket(&mut all[who], ticket).await
            }
            7 => {
                let handles = [all[who].handles[0].clone(), all[other].handles[1].clone()];
                let as_it_is = self.random.random_bool(0.2);
                let handle = if as_it_is { handles[1].to_vec() } else { changed(&mut self.random, &handles[0], &handles[1]) };
                self.prepared(&mut all[who], handle).await
            }
            _ => {
                let tokens = [&all[who], &all[other]].map(|one| one.client.header.clone().unwrap());
                let text = changed(&mut self.random, tokens[0].as_bytes(), tokens[1].as_bytes());
                self.token(all, text).await
            }
        }
    }
}

#[tokio::test]
async fn what_a_client_carries_opens_unchanged_for_its_owner_and_for_nobody_else() {
    let (seconds, first) = (number("POLYNYA_FUZZ_SECONDS", 20), number("POLYNYA_FUZZ_SEED", 1));
    let edge = super::Edge::start(users(), Config::default()).await;
    let other_gateway = super::Edge::start(users(), Config::default()).await;
    let mut all = [belongings(&edge, "ana").await, belongings(&edge, "bob").await];
    let foreign = belongings(&other_gateway, "ana").await;
    let mut fuzz = Fuzz { edge, random: SmallRng::seed_from_u64(first) };
    let end = Instant::now() + Duration::from_secs(seconds);
    let least = if std::env::var_os("POLYNYA_FUZZ_SECONDS").is_some() { 0 } else { LEAST };
    let (mut seed, mut opened) = (first, 0_u64);
    loop {
        fuzz.random = SmallRng::seed_from_u64(seed);
        match fuzz.one(&mut all, &foreign).await {
            Ok(it_opened) => opened += u64::from(it_opened),
            Err(finding) => panic!("POLYNYA_FUZZ_SEED={seed} POLYNYA_FUZZ_SECONDS=0: {finding}"),
        }
        seed += 1;
        if Instant::now() >= end && seed - first >= least {
            break;
        }
    }
    let tried = seed - first;
    eprintln!("fuzzed {tried} handles from seed {first}, {opened} were genuine");
    assert!(tried < MANY || opened * 200 > tried, "hardly any genuine one was tried");
    assert_eq!(fuzz.edge.sessions.len(), 2);
}

#[tokio::test]
async fn an_expired_ticket_opens_in_no_form() {
    let config = Config { ticket_ttl: Duration::ZERO, ..Config::default() };
    let edge = super::Edge::start(users(), config).await;
    let mut all = [belongings(&edge, "ana").await, belongings(&edge, "bob").await];
    // Times are in seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (own, others) = (all[0].tickets[0].1.ticket.to_vec(), handle_in(&all[0].tickets[1].1.ticket).unwrap());
    assert!(all[0].client.get(Ticket { ticket: own.clone().into() }).await.unwrap_err().message().contains("expired"));
    let mut random = SmallRng::seed_from_u64(1);
    for round in 0..2_000 {
        let handle = changed(&mut random, &handle_in(&own).unwrap(), &others);
        let bytes = TicketStatementQuery { statement_handle: handle.into() }.as_any().encode_to_vec();
        let status = all[round % 2].client.get(Ticket { ticket: bytes.into() }).await.unwrap_err();
        refused(&status).unwrap();
    }
    assert_eq!(edge.kernel.texts(), [""; 0]);
}
