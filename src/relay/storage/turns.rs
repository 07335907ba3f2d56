//! Owns work that blocks, and of which only so much may be done at once: what is parsed takes many times its size while it is. Refuses to
//! know what the work is, and how much of it may be done.

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// Does this on a thread that may block, when its turn comes. The turn ends with the work, whether or not anybody waits for it still.
///
/// # Errors
/// When it panics.
pub(in crate::relay) async fn in_turn<T: Send + 'static>(
    turns: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // Nobody closes them.
    let turn = turns.acquire().await.ok();
    let work = move || {
        let _turn = turn;
        work()
    };
    spawn_blocking(work).await
}
