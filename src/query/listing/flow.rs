//! Owns how a listing leaves: a little ahead of who reads it, within the deadline of a statement, and with the place of a statement until
//! it has ended. Refuses to know what is listed.
//!
//! A task of its own drives it, so that it ends at its deadline also when its client does not read on.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::query::QueryError;
use crate::query::log::StatementLog;
use crate::query::statement::within;

/// Items that may wait for their client.
const AHEAD: usize = 16;

/// A listing in work.
pub(super) struct Flow {
    pub log: StatementLog,
    pub deadline: Instant,
    pub limit: Duration,
}

impl Flow {
    /// A step of the listing before its first item; the listing is over when it fails.
    pub async fn first<T>(self, step: impl Future<Output = Result<T, QueryError>>) -> Result<(T, Self), QueryError> {
        match self.bounded(step).await {
            Ok(found) => Ok((found, self)),
            Err(error) => {
                self.log.fail(&error);
                Err(error)
            }
        }
    }

    /// Lets the items go. `rows` says how many rows are in one. Dropping the stream ends what is under way for it.
    pub fn leave<T: Send + 'static>(
        self,
        items: impl Stream<Item = Result<T, QueryError>> + Send + 'static,
        rows: fn(&T) -> usize,
    ) -> Pin<Box<dyn Stream<Item = Result<T, QueryError>> + Send>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let task = AbortOnDropHandle::new(tokio::spawn(self.drive(items, rows, sender)));
        stream::unfold(Some((receiver, task)), |flow| async {
            let (mut receiver, task) = flow?;
            if let Some(item) = receiver.recv().await {
                return Some((item, Some((receiver, task))));
            }
            // A listing that broke off must not look as if it were whole.
            let panic = task.await.err()?;
            Some((Err(QueryError::Defect(panic.to_string())), None))
        })
        // Who gathers items into batches asks once more behind the end.
        .fuse()
        .boxed()
    }

    async fn drive<T>(
        self,
        items: impl Stream<Item = Result<T, QueryError>>,
        rows: fn(&T) -> usize,
        sender: mpsc::Sender<Result<T, QueryError>>,
    ) {
        let sent = async {
            let mut items = std::pin::pin!(items);
            let mut sent = 0;
            while let Some(item) = items.next().await.transpose()? {
                let of_item = rows(&item);
                if sender.send(Ok(item)).await.is_err() {
                    return Ok(None);
                }
                sent += of_item;
            }
            Ok(Some(sent))
        };
        match self.bounded(sent).await {
            Ok(Some(rows)) => self.log.end(i64::try_from(rows).ok()),
            // Nobody is there any more.
            Ok(None) => {}
            Err(error) => {
                self.log.fail(&error);
                // Who has not read on may do so only now, and holds nothing but this.
                let _ = sender.send(Err(error)).await;
            }
        }
    }

    async fn bounded<T>(&self, step: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
        match within(self.deadline, &self.log.cut(), step).await {
            Err(QueryError::Deadline(_)) => Err(QueryError::Deadline(self.limit)),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytesize::ByteSize;
    use futures::TryStreamExt;

    use super::*;
    use crate::auth::credential::Credential;
    use crate::names::{PrincipalId, PrincipalName};
    use crate::query::admission::Admission;
    use crate::query::{Caller, Config};

    fn flow(admission: &Arc<Admission>, limit: Duration) -> Flow {
        let config = Config {
            statement_timeout: limit,
            large_read: ByteSize::gib(1),
            max_statements_per_principal: 1,
            listing_loads: 1,
            listing_tables: 1,
            listing_bytes: ByteSize::mib(1),
            listing_files: 1,
            log_sql: true,
        };
        let caller = Caller {
            id: PrincipalId::from("1"),
            principal: PrincipalName::from("ana"),
            credential: Credential::service(),
            session: "s".into(),
            catalog: "lake".into(),
            schema: "gold".to_owned(),
            as_of: None,
            begun: std::time::Instant::now(),
        };
        let admitted = admission.enter(&caller.id, &caller.principal).unwrap();
        let log = StatementLog::begin(admitted, &config, &caller, "list", "tables");
        Flow { log, deadline: Instant::now() + limit, limit }
    }

    fn numbers(held: Arc<()>) -> impl Stream<Item = Result<usize, QueryError>> + Send + 'static {
        stream::iter(0..1000).map(move |number| {
            let _held = &held;
            Ok(number)
        })
    }

    async fn is_free(admission: &Arc<Admission>) {
        let began = Instant::now();
        while admission.in_work() > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "its place is never free");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_listing_has_its_place_until_its_end() {
        let admission = Admission::new(1);
        let mut items = flow(&admission, Duration::from_secs(60)).leave(numbers(Arc::default()), |_| 1);
        assert_eq!(items.try_next().await.unwrap(), Some(0));
        assert_eq!(admission.in_work(), 1);
        assert_eq!(items.try_fold(0, async |sum, _| Ok(sum + 1)).await.unwrap(), 999);
        is_free(&admission).await;
    }

    #[tokio::test]
    async fn a_listing_that_nobody_reads_on_ends_at_its_deadline_and_says_so_to_who_comes_back() {
        let (admission, held) = (Admission::new(1), Arc::new(()));
        let limit = Duration::from_millis(100);
        let mut items = flow(&admission, limit).leave(numbers(Arc::clone(&held)), |_| 1);
        items.try_next().await.unwrap();
        is_free(&admission).await;
        while Arc::strong_count(&held) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = items.try_for_each(async |_| Ok(())).await.unwrap_err();
        assert!(matches!(error, QueryError::Deadline(after) if after == limit), "{error}");
    }

    #[tokio::test]
    async fn a_listing_that_is_dropped_or_cut_ends() {
        let admission = Admission::new(1);
        drop(flow(&admission, Duration::from_secs(60)).leave(numbers(Arc::default()), |_| 1));
        is_free(&admission).await;
        let items = flow(&admission, Duration::from_secs(60)).leave(numbers(Arc::default()), |_| 1);
        admission.cut();
        is_free(&admission).await;
        assert!(matches!(items.try_for_each(async |_| Ok(())).await.unwrap_err(), QueryError::Cut(_)));
    }

    #[tokio::test]
    async fn a_listing_that_breaks_off_does_not_look_whole() {
        let admission = Admission::new(1);
        let broken = stream::iter(0..3).map(|number| if number < 2 { Ok(number) } else { panic!("a defect") });
        let error = flow(&admission, Duration::from_secs(60)).leave(broken, |_| 1).try_for_each(async |_| Ok(())).await;
        assert!(matches!(error.unwrap_err(), QueryError::Defect(_)));
    }
}
