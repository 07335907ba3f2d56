//! Owns DoAction: prepared statements, sessions, and clear refusals of the rest. Refuses transactions: every statement commits by
//! itself.
//!
//! Flight SQL actions wrap their message in `Any`; those of Flight itself (sessions, cancelling) carry it bare.

use std::collections::HashMap;

use arrow_flight::sql::{ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ProstMessageExt};
use arrow_flight::{Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus};
use bytes::Bytes;
use prost::Message;

use super::handshake::Call;
use super::ticket::unpack;
use super::{Edge, FlightError};
use crate::as_of::AsOf;
use crate::session::Defaults;

const NO_TRANSACTIONS: &str = "transactions are not supported: every statement commits by itself; connect with autocommit on";
const NO_SUBSTRAIT: &str = "Substrait plans are not supported; send SQL";

/// The actions that are answered, with what they do.
const ACTIONS: [(&str, &str); 6] = [
    (
        "CreatePreparedStatement",
        "Describes a statement and keeps it; ActionCreatePreparedStatementRequest in, ActionCreatePreparedStatementResult out.",
    ),
    ("ClosePreparedStatement", "Drops a prepared statement; ActionClosePreparedStatementRequest in."),
    (
        "SetSessionOptions",
        "Sets `catalog` and `schema`, where names are looked up, and `as_of`, when tables are read; SetSessionOptionsRequest in, SetSessionOptionsResult out.",
    ),
    (
        "GetSessionOptions",
        "Answers `catalog` and `schema`, and `as_of` where it is set; GetSessionOptionsRequest in, GetSessionOptionsResult out.",
    ),
    ("CloseSession", "Ends the session and its token; CloseSessionRequest in, CloseSessionResult out."),
    ("CancelFlightInfo", "Always answers that nothing can be cancelled by name; end the call that runs the statement instead."),
];

/// The session messages of Flight, which the pinned arrow-flight does not have. Field numbers are those of Flight.proto.
mod messages {
    use std::collections::HashMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct OptionValue {
        #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5")]
        pub value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(bool, tag = "2")]
        Bool(bool),
        #[prost(sfixed64, tag = "3")]
        Int(i64),
        #[prost(double, tag = "4")]
        Double(f64),
        #[prost(message, tag = "5")]
        Texts(Texts),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Texts {
        #[prost(string, repeated, tag = "1")]
        pub values: Vec<String>,
    }

    /// SetSessionOptionsRequest, and GetSessionOptionsResult, which has the same shape.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Options {
        #[prost(map = "string, message", tag = "1")]
        pub session_options: HashMap<String, OptionValue>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
    #[repr(i32)]
    pub enum ErrorValue {
        Unspecified = 0,
        InvalidName = 1,
        InvalidValue = 2,
        Error = 3,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct OptionError {
        #[prost(enumeration = "ErrorValue", tag = "1")]
        pub value: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SetResult {
        #[prost(map = "string, message", tag = "1")]
        pub errors: HashMap<String, OptionError>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
    #[repr(i32)]
    pub enum CloseStatus {
        Unspecified = 0,
        Closed = 1,
        Closing = 2,
        NotCloseable = 3,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CloseResult {
        #[prost(enumeration = "CloseStatus", tag = "1")]
        pub status: i32,
    }
}

use messages::{CloseResult, CloseStatus, ErrorValue, OptionError, OptionValue, Options, SetResult, Value};

/// The actions of ListActions.
pub(super) fn action_types() -> impl Iterator<Item = ActionType> {
    ACTIONS.iter().map(|&(name, description)| ActionType { r#type: name.to_owned(), description: description.to_owned() })
}

impl Edge {
    /// Runs one action; the bodies of its results.
    pub(super) async fn action(&self, call: &Call, action: Action) -> Result<Vec<Bytes>, FlightError> {
        match action.r#type.as_str() {
            "CreatePreparedStatement" => {
                let request: ActionCreatePreparedStatementRequest = wrapped(&action.body)?;
                Ok(vec![self.create_prepared(call, request).await?])
            }
            "ClosePreparedStatement" => {
                let request: ActionClosePreparedStatementRequest = wrapped(&action.body)?;
                Self::close_prepared(call, &request);
                Ok(Vec::new())
            }
            "SetSessionOptions" => Ok(vec![self.set_options(call, bare(&action.body)?).await?]),
            "GetSessionOptions" => Ok(vec![get_options(call)]),
            "CloseSession" => {
                self.sessions.close(&call.session);
                Ok(vec![CloseResult { status: CloseStatus::Closed as i32 }.encode_to_vec().into()])
            }
            "CancelFlightInfo" => {
                let _: CancelFlightInfoRequest = bare(&action.body)?;
                let result = CancelFlightInfoResult { status: CancelStatus::NotCancellable as i32 };
                Ok(vec![result.encode_to_vec().into()])
            }
            "CancelQuery" => {
                Err(FlightError::Unimplemented("CancelQuery is not supported; end the call that runs the statement"))
            }
            "RenewFlightEndpoint" => {
                Err(FlightError::Unimplemented("tickets cannot be renewed; call GetFlightInfo again for a new one"))
            }
            "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => {
                Err(FlightError::Unimplemented(NO_TRANSACTIONS))
            }
            "CreatePreparedSubstraitPlan" => Err(FlightError::Unimplemented(NO_SUBSTRAIT)),
            other => {
                let known: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
                Err(FlightError::Invalid(format!("there is no action {other:?}; there are {}", known.join(", "))))
            }
        }
    }

    /// Sets what can be set, and says of the rest why not.
    async fn set_options(&self, call: &Call, options: Options) -> Result<Bytes, FlightError> {
        let mut errors = HashMap::new();
        let mut fail = |name: &str, value: ErrorValue| {
            errors.insert(name.to_owned(), OptionError { value: value as i32 });
        };
        let mut defaults = call.session.defaults();
        for name in options.session_options.keys().filter(|name| !matches!(name.as_str(), "catalog" | "schema" | "as_of")) {
            fail(name, ErrorValue::InvalidName);
        }
        // The catalog first: the schema is looked for in it.
        if let Some(value) = options.session_options.get("catalog") {
            match chosen(value, call.session.initial().catalog.as_str()) {
                Some(name) if self.kernel.catalogs(&call.caller()).contains(&name.into()) => defaults.catalog = name.into(),
                _ => fail("catalog", ErrorValue::InvalidValue),
            }
        }
        if let Some(value) = options.session_options.get("schema") {
            let initial = &call.session.initial().schema;
            let wanted = chosen(value, initial).map(|name| Defaults { schema: name.to_owned(), ..defaults.clone() });
            match wanted {
                Some(wanted) if self.can_use(call, &wanted).await? => defaults = wanted,
                _ => fail("schema", ErrorValue::InvalidValue),
            }
        }
        if let Some(value) = options.session_options.get("as_of") {
            match chosen(value, "").map(AsOf::parse) {
                Some(Ok(as_of)) if call.as_of.is_none() => defaults.as_of = as_of,
                _ => fail("as_of", ErrorValue::InvalidValue),
            }
        }
        self.sessions.set_defaults(&call.session, defaults);
        Ok(SetResult { errors }.encode_to_vec().into())
    }

    async fn can_use(&self, call: &Call, wanted: &Defaults) -> Result<bool, FlightError> {
        // What sessions begin with is always allowed: it may not have been created yet.
        let Defaults { catalog, schema, .. } = call.session.initial();
        let initial = *catalog == wanted.catalog && *schema == wanted.schema;
        Ok(initial || self.kernel.schema_exists(&call.caller(), &wanted.catalog, &wanted.schema).await?)
    }
}

/// The text of an option; without a value, what new sessions begin with.
fn chosen<'a>(value: &'a OptionValue, initial: &'a str) -> Option<&'a str> {
    match &value.value {
        Some(Value::Text(text)) => Some(text),
        None => Some(initial),
        Some(_) => None,
    }
}

fn get_options(call: &Call) -> Bytes {
    let Defaults { catalog, schema, as_of } = call.defaults();
    let text = |text: String| OptionValue { value: Some(Value::Text(text)) };
    let mut session_options =
        HashMap::from([("catalog".to_owned(), text(catalog.to_string())), ("schema".to_owned(), text(schema))]);
    if let Some(as_of) = as_of {
        session_options.insert("as_of".to_owned(), text(as_of.to_string()));
    }
    Options { session_options }.encode_to_vec().into()
}

fn wrapped<M: ProstMessageExt>(body: &[u8]) -> Result<M, FlightError> {
    unpack(body)?.unpack::<M>().ok().flatten().ok_or(FlightError::NotAny)
}

fn bare<M: Message + Default>(body: &[u8]) -> Result<M, FlightError> {
    M::decode(body).map_err(|error| FlightError::Invalid(format!("the action's body cannot be decoded: {error}")))
}
