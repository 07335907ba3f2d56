//! Owns how much one principal has prepared in all its sessions together. Refuses to know what it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SessionError;
use super::config::Config;

/// What the sessions of one principal hold.
#[derive(Debug)]
pub(super) struct Account {
    max_statements: usize,
    max_bytes: usize,
    /// Guards the two numbers.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    statements: usize,
    bytes: usize,
}

/// The part of one prepared statement; given back when dropped.
#[derive(Debug)]
pub(super) struct Part {
    account: Arc<Account>,
    bytes: usize,
}

impl Account {
    /// An empty account.
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            max_statements: config.max_prepared_per_principal,
            max_bytes: config.max_prepared_bytes_per_principal,
            held: Mutex::default(),
        })
    }

    /// Takes room for one more statement of so many bytes.
    ///
    /// # Errors
    /// When the principal holds too many, or too much.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Part, SessionError> {
        let mut held = self.held();
        if held.statements >= self.max_statements {
            return Err(SessionError::TooManyPreparedOfPrincipal(self.max_statements));
        }
        held.bytes = self.checked(held.bytes + bytes)?;
        held.statements += 1;
        drop(held);
        Ok(Part { account: Arc::clone(self), bytes })
    }

    fn checked(&self, bytes: usize) -> Result<usize, SessionError> {
        if bytes > self.max_bytes { Err(SessionError::TooManyPreparedBytes(self.max_bytes)) } else { Ok(bytes) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Takes so many bytes in place of those taken before.
    ///
    /// # Errors
    /// When the principal would hold too much; nothing changes then.
    pub fn resize(&mut self, bytes: usize) -> Result<(), SessionError> {
        let mut held = self.account.held();
        held.bytes = self.account.checked(held.bytes - self.bytes + bytes)?;
        drop(held);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut held = self.account.held();
        held.statements -= 1;
        held.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_makes_room_and_what_is_refused_takes_none() {
        let config = Config { max_prepared_per_principal: 2, max_prepared_bytes_per_principal: 10, ..Config::default() };
        let account = Account::new(&config);
        let mut first = account.take(4).unwrap();
        assert_eq!(account.take(7).err(), Some(SessionError::TooManyPreparedBytes(10)));
        let second = account.take(6).unwrap();
        assert_eq!(account.take(0).err(), Some(SessionError::TooManyPreparedOfPrincipal(2)));
        assert_eq!(first.resize(5).err(), Some(SessionError::TooManyPreparedBytes(10)));
        drop(second);
        first.resize(10).unwrap();
        first.resize(1).unwrap();
        drop(first);
        let held = account.held();
        assert_eq!((held.statements, held.bytes), (0, 0));
    }
}
