//! Owns who is who in a stand-in: realms with their principals and roles, tokens, and what is granted. Refuses to know HTTP.

pub mod authorize;
pub mod issuers;
pub mod realm;
pub mod token;
